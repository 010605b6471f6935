"""The ResNet-18 of the benchmark in Jittor, out of Jittor's own layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jittor as jt
from jittor import nn
import resnet_layout


class Block(jt.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, block: resnet_layout.Block) -> None:
        self.first = nn.Conv2d(block.inputs, block.outputs, 3, block.stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(block.outputs)
        self.second = nn.Conv2d(block.outputs, block.outputs, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(block.outputs)
        self.projects = block.projects
        if block.projects:
            self.shortcut = nn.Conv2d(block.inputs, block.outputs, 1, block.stride, bias=False)
            self.shortcut_norm = nn.BatchNorm2d(block.outputs)

    def execute(self, x: jt.Var) -> jt.Var:
        """Feature maps of half the height and width where the stride is 2."""
        out = nn.relu(self.first_norm(self.first(x)))
        out = self.second_norm(self.second(out))
        return nn.relu(out + (self.shortcut_norm(self.shortcut(x)) if self.projects else x))


class ResNet(jt.Module):
    """The network, with weights in the order of :mod:`resnet_layout`."""

    def __init__(self, weights: Sequence[Any]) -> None:
        channels, classes = weights[0].shape[1], weights[-1].shape[0]
        self.stem = nn.Conv2d(channels, resnet_layout.WIDTHS[0], 3, 1, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(resnet_layout.WIDTHS[0])
        self.blocks = nn.Sequential(*[Block(block) for block in resnet_layout.blocks()])
        self.last = nn.Linear(resnet_layout.WIDTHS[-1], classes)
        self._set([jt.array(weight) for weight in weights])

    def execute(self, x: jt.Var) -> jt.Var:
        """Logits."""
        x = self.blocks(nn.relu(self.stem_norm(self.stem(x))))
        return self.last(x.mean((2, 3)))

    def called_with(self, weights: Sequence[jt.Var], x: jt.Var) -> jt.Var:
        """Logits with other weights than the network's own, which it keeps."""
        own = [getattr(layer, name) for layer, name in self._places()]
        self._set(weights)
        try:
            return self(x)
        finally:
            self._set(own)

    def weights(self) -> list[jt.Var]:
        """The weights, without the running statistics of the batch norms."""
        return [getattr(layer, name) for layer, name in self._places()]

    def _set(self, weights: Sequence[jt.Var]) -> None:
        for (layer, name), weight in zip(self._places(), weights, strict=True):
            setattr(layer, name, weight)

    def _places(self) -> Iterator[tuple[jt.Module, str]]:
        pairs = [(self.stem, self.stem_norm)]
        for block in self.blocks:
            pairs += [(block.first, block.first_norm), (block.second, block.second_norm)]
            if block.projects:
                pairs.append((block.shortcut, block.shortcut_norm))
        for convolution, norm in pairs:
            yield from ((convolution, "weight"), (norm, "weight"), (norm, "bias"))
        yield from ((self.last, "weight"), (self.last, "bias"))
