"""A ResNet-18 for small images: its layers and their initial weights, in the order that every contestant keeps them.

The stem is one 3 x 3 convolution of stride 1, without pooling. Eight blocks of two 3 x 3 convolutions follow, two of
each width; the first of a width but the smallest has stride 2, and a 1 x 1 convolution on its shortcut. A batch norm
comes after every convolution, which has no bias, and a linear layer after the average over all places. (He et al.,
"Deep residual learning for image recognition", CVPR 2016.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

WIDTHS = (64, 128, 256, 512)
BLOCKS = 2  # of each width


class Block(NamedTuple):
    """Channels that come in and go out, and the stride of the first convolution."""

    inputs: int
    outputs: int
    stride: int

    @property
    def projects(self) -> bool:
        """Whether the shortcut has a convolution of its own."""
        return self.stride != 1 or self.inputs != self.outputs


def blocks() -> list[Block]:
    """All blocks, from the images on."""
    found = []
    inputs = WIDTHS[0]
    for width in WIDTHS:
        for number in range(BLOCKS):
            found.append(Block(inputs, width, 2 if number == 0 and width != WIDTHS[0] else 1))
            inputs = width
    return found


def weights(channels: int, classes: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Initial weights: of each convolution [out, in, height, width], then scale and shift of its batch norm, [out].

    The stem comes first, then of every block both convolutions and that of the shortcut, then weight and bias of the
    linear layer.
    """
    arrays = []
    for inputs, outputs, size in _convolutions(channels):
        spread = np.sqrt(2.0 / (inputs * size * size))
        arrays += [rng.normal(size=(outputs, inputs, size, size)) * spread, np.ones(outputs), np.zeros(outputs)]
    return [*arrays, rng.normal(size=(classes, WIDTHS[-1])) / np.sqrt(WIDTHS[-1]), np.zeros(classes)]


def _convolutions(channels: int) -> Iterator[tuple[int, int, int]]:
    yield channels, WIDTHS[0], 3
    for block in blocks():
        yield block.inputs, block.outputs, 3
        yield block.outputs, block.outputs, 3
        if block.projects:
            yield block.inputs, block.outputs, 1
