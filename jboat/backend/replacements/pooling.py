"""Pooling over windows of images and volumes that can be differentiated twice.

Jittor's maximum and minimum pooling, and its mean with ``ceil_mode``, have gradients written by hand, whose own
derivative is zero. Its ``max`` over dimensions, of which adaptive pooling is made, can be differentiated again, but
gives every one of several equal largest entries the whole gradient: in a blank region of an image, where all entries of
a window are the same function of the weights, that is as many times the derivative as the window has entries.

Here the place of the first extreme entry of a window is a constant, and the value is read from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import math
from typing import Any, NamedTuple

from jboat.backend.replacements.dispatch import Function, Place, install
from jboat.backend.replacements.plain_arrays import is_float
import jittor as jt
from jittor import pool as jittor_pool
import numpy as np

_WHY = "the place of a window's largest entry is a constant, so that it can be derived twice"
_POOL, _POOL3D = (jittor_pool.Pool, "execute"), (jittor_pool.Pool3d, "execute")
_ADAPTIVE, _ADAPTIVE3D = (jittor_pool.AdaptiveMaxPool2d, "execute"), (jittor_pool.AdaptiveMaxPool3d, "execute")
_JITTORS = {place: install(*place, _WHY) for place in (_POOL, _POOL3D, _ADAPTIVE, _ADAPTIVE3D)}
# where Jittor's own maximum of no numbers starts
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_LIMITS = {"float16": 65000.0, "bfloat16": 1e38, "float64": float(np.finfo(np.float64).max)}

# one pass over images of up to three dimensions, for float32; with -ffast-math NaN is known by its bits alone
_FIRST_EXTREME = """
    int image[3], count[3], size[3], stride[3], padding[3];
    const float sign = data["sign"];
    for (int d = 0; d < 3; d++) {
        const std::string axis = std::to_string(d);
        image[d] = data["image" + axis];
        count[d] = data["count" + axis];
        size[d] = data["size" + axis];
        stride[d] = data["stride" + axis];
        padding[d] = data["padding" + axis];
    }
    const int64 entries = (int64)image[0] * image[1] * image[2];
    const int64 images = in0->num / entries;
    auto* first = out_p;
    for (int64 i = 0; i < images; i++)
    for (int a = 0; a < count[0]; a++)
    for (int b = 0; b < count[1]; b++)
    for (int c = 0; c < count[2]; c++) {
        const int at[3] = {a * stride[0] - padding[0], b * stride[1] - padding[1], c * stride[2] - padding[2]};
        int begin[3], end[3];
        for (int d = 0; d < 3; d++) {
            begin[d] = std::max(at[d], 0);
            end[d] = std::min(at[d] + size[d], image[d]);
        }
        int place = -1;
        float best = 0.0f;
        bool found_nan = false;
        for (int p = begin[0]; p < end[0] && !found_nan; p++)
        for (int q = begin[1]; q < end[1] && !found_nan; q++) {
            const float* row = in0_p + i * entries + ((int64)p * image[1] + q) * image[2];
            const int before = ((p - at[0]) * size[1] + q - at[1]) * size[2] - at[2];
            for (int r = begin[2]; r < end[2]; r++) {
                unsigned bits;
                std::memcpy(&bits, row + r, sizeof bits);
                found_nan = (bits & 0x7fffffffu) > 0x7f800000u;
                const float value = sign * row[r];
                if (found_nan || place < 0 || value > best) {
                    place = before + r;
                    best = value;
                }
                if (found_nan) break;
            }
        }
        *first++ = std::max(place, 0);
    }
"""


class Windows(NamedTuple):
    """Where windows lie, with one number for each dimension of the images.

    Attributes:
        size: of a window.
        stride: how far windows are apart.
        padding: how many entries surround an image on each side.
    """

    size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]

    def counts(self, image: Sequence[int], *, ceil_mode: bool = False) -> tuple[int, ...]:
        """How many windows fit in each dimension of an image; with ``ceil_mode`` the last may stick out."""
        return tuple(
            (length + 2 * p - k + (s - 1 if ceil_mode else 0)) // s + 1
            for length, k, s, p in zip(image, *self, strict=True)
        )

    def entries(self, x: jt.Var, counts: Sequence[int], outside: float) -> jt.Var:
        """All windows, shape [n, c, *counts, *size]; ``outside`` is the value of padding."""
        places = [f"i{2 + len(counts) + d}" for d in range(len(counts))]
        return x.reindex([*x.shape[:2], *counts, *self.size], self._indices(places), overflow_value=outside)

    def picked(self, x: jt.Var, first: jt.Var, outside: float) -> jt.Var:
        """The entry of each window at the place ``first`` in it, counted row by row, modulo the size of a window."""
        here = f"@e0({','.join(f'i{d}' for d in range(first.ndim))})"
        later = math.prod(self.size)
        places = []
        for size in self.size:
            places.append(f"({here}%{later})/{later // size}")
            later //= size
        return x.reindex(list(first.shape), self._indices(places), overflow_value=outside, extras=[first])

    def inside(self, image: Sequence[int], counts: Sequence[int]) -> np.ndarray:
        """How many entries of each window are not padding, but at least 1; shape ``counts``."""
        inside = np.ones(())
        for length, count, k, s, p in zip(image, counts, *self, strict=True):
            begin = np.arange(count) * s - p
            inside = np.multiply.outer(inside, np.minimum(begin + k, length) - np.maximum(begin, 0))
        return np.maximum(inside, 1.0)

    def _indices(self, places: Sequence[str]) -> list[str]:
        placed = zip(places, self.stride, self.padding, strict=True)
        return ["i0", "i1", *(f"i{2 + d}*{s}-{p}+{place}" for d, (place, s, p) in enumerate(placed))]


def extreme(x: jt.Var, windows: Windows, counts: Sequence[int], op: str = "maximum") -> jt.Var:
    """The largest or smallest entry of each window, which alone has a derivative: of equal ones the first.

    Args:
        x: shape [n, c, *image].
        windows: where they lie.
        counts: how many of them there are in each dimension of the image.
        op: ``"maximum"`` or ``"minimum"``.

    Returns:
        Shape [n, c, *counts]. NaN where a window has one; the lowest (largest) number of the type where a window lies
        in the padding.
    """
    return windows.picked(x, _first_extreme(x, windows, counts, op), _outside(x, op))


def extreme_and_indices(
    x: jt.Var, windows: Windows, counts: Sequence[int], op: str = "maximum"
) -> tuple[jt.Var, jt.Var]:
    """What :func:`extreme` returns, and where in its image each entry lies, counted row by row; -1 in the padding."""
    first = _first_extreme(x, windows, counts, op)
    image = x.shape[2:]
    indices = jt.array(np.arange(math.prod(image), dtype=np.int32).reshape(1, 1, *image)).broadcast(x.shape)
    return windows.picked(x, first, _outside(x, op)), windows.picked(indices, first, -1.0)


def _outside(x: jt.Var, op: str) -> float:
    limit = _LIMITS.get(str(x.dtype), _FLOAT32_MAX)
    return -limit if op == "maximum" else limit


def _first_extreme(x: jt.Var, windows: Windows, counts: Sequence[int], op: str) -> jt.Var:
    """The place of each window's first extreme entry, plus a multiple of the size of a window."""
    constant = x.detach()
    if str(x.dtype) == "float32" and not jt.flags.use_cuda:
        data = {"sign": 1.0 if op == "maximum" else -1.0}
        for name, sizes in {"image": x.shape[2:], "count": counts, **windows._asdict()}.items():
            missing, fill = 3 - len(counts), 0 if name == "padding" else 1
            data |= {f"{name}{d}": float(n) for d, n in enumerate([fill] * missing + list(sizes))}
        return jt.code([*x.shape[:2], *counts], "int32", [constant], cpu_src=_FIRST_EXTREME, data=data)
    is_nan = windows.entries(constant.isnan(), counts, 0.0)
    entries = windows.entries(constant, counts, _outside(x, op))
    image, axes = len(counts), list(range(2 + len(counts), 2 + 2 * len(counts)))
    found = entries.reduce(op, axes, keepdims=True)
    is_extreme = entries >= found if op == "maximum" else entries <= found
    place = entries.index(2 + image)
    for d in range(1, image):
        place = place * windows.size[d] + entries.index(2 + image + d)
    count = math.prod(windows.size)
    # NaN, which no comparison finds, goes before every number; where all are infinite none may be found
    order = place + count * (2 - is_extreme.int32()) * (1 - is_nan.int32())
    return order.reduce("minimum", axes)


def mean(x: jt.Var, windows: Windows, counts: Sequence[int], *, count_include_pad: bool = True) -> jt.Var:
    """The mean of each window.

    Args:
        x: shape [n, c, *image].
        windows: where they lie.
        counts: how many of them there are in each dimension of the image.
        count_include_pad: whether padding counts as zeros.

    Returns:
        Shape [n, c, *counts].
    """
    total = windows.entries(x, counts, 0.0).sum(list(range(2 + len(counts), 2 + 2 * len(counts))))
    if count_include_pad:
        return total / math.prod(windows.size)
    return total / jt.array(windows.inside(x.shape[2:], counts).astype(str(x.dtype)))


def everywhere() -> dict[Place, Function]:
    """The functions that run inside a block on any device, by place."""
    return {
        _POOL: _pool(_JITTORS[_POOL], 2),
        _POOL3D: _pool(_JITTORS[_POOL3D], 3),
        _ADAPTIVE: _adaptive(_JITTORS[_ADAPTIVE], 2),
        _ADAPTIVE3D: _adaptive(_JITTORS[_ADAPTIVE3D], 3),
    }


def _pool(jittors: Function, dimensions: int) -> Function:
    def execute(layer: Any, x: jt.Var) -> Any:
        is_extreme = layer.op in ("maximum", "minimum")
        replaced = is_extreme or (layer.op == "mean" and layer.ceil_mode)
        if not replaced or not _are_images(x, dimensions):
            return jittors(layer, x)
        windows = Windows(layer.kernel_size, layer.stride, layer.padding)
        image = x.shape[2:]
        if any(length <= k for length, k in zip(image, windows.size, strict=True)):
            return jittors(layer, x)  # which says so
        counts = windows.counts(image, ceil_mode=layer.ceil_mode)
        if layer.return_indices:
            return extreme_and_indices(x, windows, counts, layer.op)
        if is_extreme:
            return extreme(x, windows, counts, layer.op)
        return mean(x, windows, counts, count_include_pad=layer.count_include_pad)

    return execute


def _adaptive(jittors: Function, dimensions: int) -> Function:
    def execute(layer: Any, x: jt.Var) -> Any:
        wanted = layer.output_size
        if layer.return_indices or not isinstance(wanted, int | tuple | list) or not _are_images(x, dimensions):
            return jittors(layer, x)
        image = x.shape[2:]
        counts = [wanted] * dimensions if isinstance(wanted, int) else list(_given_or(wanted, image))
        if any(not 1 <= count <= length for count, length in zip(counts, image, strict=True)):
            return jittors(layer, x)
        stride = tuple(length // count for length, count in zip(image, counts, strict=True))
        size = tuple(n - (count - 1) * s for n, count, s in zip(image, counts, stride, strict=True))
        return extreme(x, Windows(size, stride, (0,) * dimensions), counts)

    return execute


def _given_or(wanted: Sequence[int | None], image: Sequence[int]) -> Iterator[int]:
    for count, length in zip(wanted, image, strict=True):
        yield length if count is None else count


def _are_images(x: Any, dimensions: int) -> bool:
    return isinstance(x, jt.Var) and is_float(x) and x.ndim == 2 + dimensions and 0 not in x.shape
