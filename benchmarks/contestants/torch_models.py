"""The benchmark problems as PyTorch modules and objectives, for contestants on PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import benchmark_problems
import torch
from torch.nn import functional
from torch_resnet import ResNet


class Network(torch.nn.Module):
    """A linear classifier, a two-layer perceptron, or convolutions of stride 2 below a linear layer."""

    def __init__(self, weights: Sequence[Any]) -> None:
        super().__init__()
        self.weights = torch.nn.ParameterList([torch.from_numpy(w.copy()) for w in weights])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return logits(list(self.weights), x)

    def called_with(self, weights: Sequence[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        """Logits with other weights than the network's own."""
        return logits(weights, x)


def network(definition: benchmark_problems.Problem, device: str) -> Network | ResNet:
    """The network of a problem with its initial weights."""
    return (ResNet if definition.name == "resnet" else Network)(definition.weights).to(device)


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


def batches(definition: benchmark_problems.Problem, device: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
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


def lower_value(
    name: str,
    batch: dict[str, Any],
    x: torch.Tensor,
    y: Sequence[torch.Tensor],
    called_with: Callable[[Sequence[torch.Tensor], torch.Tensor], torch.Tensor] = logits,
) -> torch.Tensor:
    """The lower objective of a problem at x and y, for a network that can be called with weights."""
    out = called_with(y, batch["data"])
    if name == "maml":
        return functional.cross_entropy(out, batch["target"])
    if name == "l2":
        return functional.cross_entropy(out, batch["target"]) + 0.5 * (x.exp() * y[0] * y[0]).sum()
    return (functional.cross_entropy(out, batch["target"], reduction="none") * x.sigmoid()).mean()


def upper_value(
    batch: dict[str, Any],
    y: Sequence[torch.Tensor],
    called_with: Callable[[Sequence[torch.Tensor], torch.Tensor], torch.Tensor] = logits,
) -> torch.Tensor:
    """The upper objective of every problem."""
    return functional.cross_entropy(called_with(y, batch["data"]), batch["target"])


def finish(device: str) -> None:
    """Wait for what the GPU still computes."""
    if device == "cuda":
        torch.cuda.synchronize()


def gpu_memory() -> int:
    """The most bytes that PyTorch's pool has taken from the GPU, as Jittor's is counted."""
    return torch.cuda.max_memory_reserved()
