"""Plain Jittor in float64, for differences that a deep network leaves accurate.

Jittor makes float32 of what a program gives it, some of its models do so in the middle, and its convolution in float64
is a plain loop, fifty times slower than oneDNN's. Here arrays and models stay in float64, and a layer's convolution is
numpy's, with first derivatives alone, which is what a loop of plain steps needs.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
from typing import Any
from unittest import mock

import jboat  # noqa: F401  # prepares what Jittor finds when it is imported
import jittor as jt
from jittor import nn
import numpy as np


class _Patches:
    """How the patches of images lie that a convolution multiplies with its weights."""

    def __init__(self, layer: nn.Conv, image: tuple[int, ...]) -> None:
        self.groups = layer.groups
        self._kernel, self._stride, self._padding, self._dilation = (
            tuple(layer.kernel_size),
            tuple(layer.stride),
            tuple(layer.padding),
            tuple(layer.dilation),
        )
        self.counts = tuple(
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(image[2:], self._kernel, self._stride, self._padding, self._dilation, strict=True)
        )

    def _places(self) -> Iterator[tuple[int, int, slice, slice]]:
        for i in range(self._kernel[0]):
            for j in range(self._kernel[1]):
                rows, columns = (
                    slice(at * d, at * d + s * (count - 1) + 1, s)
                    for at, d, s, count in zip((i, j), self._dilation, self._stride, self.counts, strict=True)
                )
                yield i, j, rows, columns

    def of(self, x: np.ndarray) -> np.ndarray:
        """Shape [groups, channels * kernel, n * positions]."""
        n, c = x.shape[:2]
        sides = [(0, 0), (0, 0), *((p, p) for p in self._padding)]
        padded = np.pad(x, sides).reshape(
            n, self.groups, c // self.groups, *(s + 2 * p for s, p in zip(x.shape[2:], self._padding, strict=True))
        )
        found = np.empty((self.groups, c // self.groups, *self._kernel, n, *self.counts), x.dtype)
        for i, j, rows, columns in self._places():
            found[:, :, i, j] = padded[..., rows, columns].transpose(1, 2, 0, 3, 4)
        return found.reshape(self.groups, -1, n * self.counts[0] * self.counts[1])

    def put_back(self, patches: np.ndarray, out: np.ndarray) -> None:
        """Add up patches, shaped as :meth:`of` returns them, to an image like ``out``, which is written."""
        n, c = out.shape[:2]
        height, width = (s + 2 * p for s, p in zip(out.shape[2:], self._padding, strict=True))
        padded = np.zeros((self.groups, c // self.groups, n, height, width), out.dtype)
        apart = patches.reshape(self.groups, c // self.groups, *self._kernel, n, *self.counts)
        for i, j, rows, columns in self._places():
            padded[..., rows, columns] += apart[:, :, i, j]
        top, left = self._padding
        inside = padded[..., top : height - top, left : width - left]
        out[...] = inside.transpose(2, 0, 1, 3, 4).reshape(out.shape)

    def rows(self, y: np.ndarray) -> np.ndarray:
        """Outputs [n, out, *counts] as [groups, out / groups, n * positions]."""
        n, out = y.shape[:2]
        apart = y.reshape(n, self.groups, out // self.groups, -1)
        return apart.transpose(1, 2, 0, 3).reshape(self.groups, out // self.groups, -1)

    def images(self, rows: np.ndarray, n: int) -> np.ndarray:
        """What :meth:`rows` was given."""
        apart = rows.reshape(self.groups, rows.shape[1], n, -1).transpose(2, 0, 1, 3)
        return apart.reshape(n, -1, *self.counts)


def convolved(layer: nn.Conv, x: jt.Var) -> jt.Var:
    """What ``layer`` makes of images, shape [n, c, height, width], with a first derivative and no second."""
    places = _Patches(layer, tuple(x.shape))

    def weights(data: dict[str, Any]) -> np.ndarray:
        weight: np.ndarray = data["inputs"][1]
        return weight.reshape(places.groups, weight.shape[0] // places.groups, -1)

    def forward(np: Any, data: dict[str, Any]) -> None:
        found = np.matmul(weights(data), places.of(data["inputs"][0]))
        np.copyto(data["outputs"][0], places.images(found, x.shape[0]))

    def by_images(np: Any, data: dict[str, Any]) -> None:
        found = np.matmul(weights(data).transpose(0, 2, 1), places.rows(data["dout"]))
        places.put_back(found, data["outputs"][0])

    def by_weights(np: Any, data: dict[str, Any]) -> None:
        found = np.matmul(places.rows(data["dout"]), places.of(data["inputs"][0]).transpose(0, 2, 1))
        np.copyto(data["outputs"][0], found.reshape(data["outputs"][0].shape))

    shape = [x.shape[0], layer.out_channels, *places.counts]
    y = jt.numpy_code(shape, x.dtype, [x, layer.weight], forward, [by_images, by_weights])
    return y if layer.bias is None else y + layer.bias.broadcast(y.shape, [0, 2, 3])


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """Inside the block arrays keep float64, and so does what models of float64 parameters make of them."""
    with (
        jt.flag_scope(auto_convert_64_to_32=0),
        mock.patch.object(jt.Var, "float_auto", lambda x: x),
        mock.patch.object(nn.Conv, "execute", convolved),
    ):
        yield
