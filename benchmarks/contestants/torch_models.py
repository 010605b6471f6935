"""The benchmark problems as PyTorch modules and objectives, for contestants on PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import problems
import torch
from torch.nn import functional


class Network(torch.nn.Module):
    """A linear classifier, a two-layer perceptron, or convolutions of stride 2 below a linear layer."""

    def __init__(self, weights: Sequence[Any]) -> None:
        super().__init__()
        self.weights = torch.nn.ParameterList([torch.from_numpy(w.copy()) for w in weights])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return logits(list(self.weights), x)


def logits(weights: Sequence[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """What the network with these parameters makes of ``x``."""
    if len(weights) == 1:
        return x @ weights[0].T
    for weight, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
        if x.ndim == 4:
            x = functional.conv2d(x, weight, bias, stride=2, padding=1).relu()
        else:
            x = functional.linear(x, weight, bias).relu()
    return functional.linear(x.flatten(1), weights[-2], weights[-1])


class Upper(torch.nn.Module):
    """The upper variable, a row or a column."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = torch.nn.Parameter(torch.from_numpy(value.copy()))


def batches(definition: problems.Problem, device: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The lower and the upper batch of every task."""
    return tuple(  # type: ignore[return-value]
        [
            {
                "data": torch.from_numpy(pair[level][0]).to(device),
                "target": torch.from_numpy(pair[level][1]).long().to(device),
            }
            for pair in definition.pairs
        ]
        for level in (0, 1)
    )


def lower_value(name: str, batch: dict[str, Any], x: torch.Tensor, y: Sequence[torch.Tensor]) -> torch.Tensor:
    """The lower objective of a problem at x and y."""
    out = logits(y, batch["data"])
    if name == "maml":
        return functional.cross_entropy(out, batch["target"])
    if name == "l2":
        return functional.cross_entropy(out, batch["target"]) + 0.5 * (x.exp() * y[0] * y[0]).sum()
    return (functional.cross_entropy(out, batch["target"], reduction="none") * x.sigmoid()).mean()


def upper_value(batch: dict[str, Any], y: Sequence[torch.Tensor]) -> torch.Tensor:
    """The upper objective of every problem."""
    return functional.cross_entropy(logits(y, batch["data"]), batch["target"])
