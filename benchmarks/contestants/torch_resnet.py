"""The ResNet-18 of the benchmark in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import resnet_layout
import torch
from torch import nn


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, block: resnet_layout.Block) -> None:
        super().__init__()
        self.first = nn.Conv2d(block.inputs, block.outputs, 3, block.stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(block.outputs)
        self.second = nn.Conv2d(block.outputs, block.outputs, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(block.outputs)
        self.projects = block.projects
        if block.projects:
            self.shortcut = nn.Conv2d(block.inputs, block.outputs, 1, block.stride, bias=False)
            self.shortcut_norm = nn.BatchNorm2d(block.outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Feature maps of half the height and width where the stride is 2."""
        out = self.first_norm(self.first(x)).relu()
        out = self.second_norm(self.second(out))
        return (out + (self.shortcut_norm(self.shortcut(x)) if self.projects else x)).relu()


class ResNet(nn.Module):
    """The network, whose parameters are in the order of :mod:`resnet_layout`."""

    def __init__(self, weights: Sequence[Any]) -> None:
        super().__init__()
        channels, classes = weights[0].shape[1], weights[-1].shape[0]
        self.stem = nn.Conv2d(channels, resnet_layout.WIDTHS[0], 3, 1, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(resnet_layout.WIDTHS[0])
        self.blocks = nn.Sequential(*[Block(block) for block in resnet_layout.blocks()])
        self.last = nn.Linear(resnet_layout.WIDTHS[-1], classes)
        with torch.no_grad():
            for parameter, weight in zip(self.parameters(), weights, strict=True):
                parameter.copy_(torch.from_numpy(weight))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = self.blocks(self.stem_norm(self.stem(x)).relu())
        return self.last(x.mean((2, 3)))

    def called_with(self, weights: Sequence[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        """Logits with other weights than the network's own, which it keeps."""
        names = [name for name, _ in self.named_parameters()]
        return torch.func.functional_call(self, dict(zip(names, weights, strict=True)), (x,))
