"""Stand-ins for Jittor operations whose second derivative is wrong without a word."""

from __future__ import annotations

import jittor as jt

_LOWEST = -3.0e38


def max_pool2d(
    x: jt.Var, kernel_size: int | tuple[int, int], stride: int | tuple[int, int] | None = None, padding: int = 0
) -> jt.Var:
    """Max pooling that can be differentiated twice; Jittor's own gives a second derivative of zero.

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
    n, c, h, w = x.shape
    out_h, out_w = ((size + 2 * padding - k) // s + 1 for size, k, s in zip((h, w), kernel, step, strict=True))
    if out_h < 1 or out_w < 1:
        raise ValueError(f"a window of {kernel} does not fit into {h} x {w} with padding {padding}")
    windows = x.reindex(
        [n, c, out_h, out_w, *kernel],
        ["i0", "i1", f"i2*{step[0]}-{padding}+i4", f"i3*{step[1]}-{padding}+i5"],
        overflow_value=_LOWEST,
    )
    return windows.max([4, 5])


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
