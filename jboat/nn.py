"""Stand-ins for Jittor operations whose second derivative is wrong without a word."""

from __future__ import annotations

from jboat.backend.replacements.pooling import Windows, extreme
import jittor as jt


def max_pool2d(
    x: jt.Var, kernel_size: int | tuple[int, int], stride: int | tuple[int, int] | None = None, padding: int = 0
) -> jt.Var:
    """Max pooling that can be differentiated twice; Jittor's own gives a second derivative of zero.

    The trainer puts the same in the place of Jittor's while it runs. Of equal largest entries of a window the first has
    the derivative; NaN is kept.

    Args:
        x: shape [n, c, h, w], floating point.
        kernel_size: size of a window, one number or (height, width).
        stride: distance of windows; by default ``kernel_size``.
        padding: how many rows and columns of minus infinity to put around x, at most half a window.

    Returns:
        Shape [n, c, h', w'] with ``h' = (h + 2 padding - kernel) // stride + 1``, likewise w'.

    Raises:
        ValueError: for a size that does not fit.
    """
    kernel = (kernel_size, kernel_size) if isinstance(kernel_size, int) else tuple(kernel_size)
    step = kernel if stride is None else (stride, stride) if isinstance(stride, int) else tuple(stride)
    if x.ndim != 4:
        raise ValueError(f"x must have shape [n, c, h, w], got {list(x.shape)}")
    if min(*kernel, *step) < 1 or padding < 0 or 2 * padding > min(kernel):
        raise ValueError(
            f"kernel_size and stride must be at least 1 and padding between 0 and half a window, got {kernel}, {step} "
            f"and {padding}"
        )
    windows = Windows(kernel, step, (padding, padding))
    counts = windows.counts(x.shape[2:])
    if min(counts) < 1:
        raise ValueError(f"a window of {kernel} does not fit into {x.shape[2]} x {x.shape[3]} with padding {padding}")
    return extreme(x, windows, counts)


class MaxPool2d(jt.Module):
    """Max pooling as a module; see :func:`max_pool2d`.

    Args:
        kernel_size: size of a window, one number or (height, width).
        stride: distance of windows; by default ``kernel_size``.
        padding: how many rows and columns to put around the input.
    """

    def __init__(
        self, kernel_size: int | tuple[int, int], stride: int | tuple[int, int] | None = None, padding: int = 0
    ) -> None:
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding

    def execute(self, x: jt.Var) -> jt.Var:
        """Pool x, shape [n, c, h, w]."""
        return max_pool2d(x, self.kernel_size, self.stride, self.padding)
