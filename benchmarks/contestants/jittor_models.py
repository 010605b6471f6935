"""The benchmark problems as Jittor modules and objectives, for contestants on Jittor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import benchmark_problems
import jittor as jt
from jittor import nn
from jittor_resnet import ResNet


class Network(jt.Module):
    """A linear classifier, a two-layer perceptron, or convolutions of stride 2 below a linear layer."""

    def __init__(self, weights: Sequence[Any]) -> None:
        self.count = len(weights)
        for i, weight in enumerate(weights):
            setattr(self, f"weight{i}", jt.array(weight))

    def execute(self, x: jt.Var) -> jt.Var:
        """Logits."""
        return logits(self.weights(), x)

    def called_with(self, weights: Sequence[jt.Var], x: jt.Var) -> jt.Var:
        """Logits with other weights than the network's own."""
        return logits(weights, x)

    def weights(self) -> list[jt.Var]:
        """The weights in their order."""
        return [getattr(self, f"weight{i}") for i in range(self.count)]


def logits(weights: Sequence[jt.Var], x: jt.Var) -> jt.Var:
    """What the network with these parameters makes of ``x``."""
    if len(weights) == 1:
        return nn.matmul_transpose(x, weights[0])
    for weight, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
        if x.ndim == 4:
            x = nn.relu(nn.conv2d(x, weight, bias, stride=2, padding=1))
        else:
            x = nn.relu(nn.linear(x, weight, bias))
    return nn.linear(x.reshape(x.shape[0], -1), weights[-2], weights[-1])


class Upper(jt.Module):
    """The upper variable, a row or a column."""

    def __init__(self, value: Any) -> None:
        self.value = jt.array(value)


class Problem:
    """Models, batches and objectives of one problem."""

    def __init__(self, definition: benchmark_problems.Problem) -> None:
        self.definition = definition
        self.lower_model = (ResNet if definition.name == "resnet" else Network)(definition.weights)
        maml = definition.name == "maml"
        self.upper_model = Network(definition.upper) if maml else Upper(definition.upper[0])
        self.train, self.val = (
            [{"data": jt.array(pair[level][0]), "target": jt.array(pair[level][1])} for pair in definition.pairs]
            for level in (0, 1)
        )
        for batch in (*self.train, *self.val):
            batch["data"].stop_grad()  # as Jittor's loaders do
        jt.sync([v for batch in (*self.train, *self.val) for v in batch.values()])
        jt.sync([*self.lower_model.parameters(), *self.upper_model.parameters()])
        self.lower = {"l2": lower_l2, "maml": plain}.get(definition.name, lower_cleaning)

    @property
    def batches(self) -> tuple[Any, Any]:
        """The lower and upper batch, lists where there are tasks."""
        return (self.train, self.val) if self.definition.name == "maml" else (self.train[0], self.val[0])


def lower_l2(batch: dict[str, Any], ul_model: jt.Module, ll_model: Any, **_: Any) -> jt.Var:
    """Training loss with one L2 weight per feature."""
    loss = nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"])
    weight = next(iter(ll_model.parameters()))
    return loss + 0.5 * (ul_model.value.exp() * weight * weight).sum()


def lower_cleaning(batch: dict[str, Any], ul_model: jt.Module, ll_model: Any, **_: Any) -> jt.Var:
    """Training loss with one weight per sample."""
    losses = nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"], reduction="none")
    return (losses * ul_model.value.sigmoid()).mean()


def plain(batch: dict[str, Any], ul_model: jt.Module, ll_model: Any, **_: Any) -> jt.Var:
    """The loss, which is the upper objective of every problem."""
    return nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"])


def mixed(ll_batch: dict[str, Any], ul_batch: dict[str, Any], ul_model: jt.Module, ll_model: Any, **_: Any) -> jt.Var:
    """boat-jit's ``gda_loss``: ``alpha F + (1 - alpha) f`` for sample weights."""
    alpha = ll_batch["alpha"]
    return alpha * plain(ul_batch, ul_model, ll_model) + (1 - alpha) * lower_cleaning(ll_batch, ul_model, ll_model)
