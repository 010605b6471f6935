"""The benchmark problems as Jittor modules and objectives, for contestants on Jittor."""

from __future__ import annotations

from typing import Any

import jittor as jt
from jittor import nn
from problems import Arrays, arrays


class Linear(jt.Module):
    """A linear classifier without bias."""

    def __init__(self, weight: Any) -> None:
        self.weight = jt.array(weight)

    def execute(self, x: jt.Var) -> jt.Var:
        """Logits."""
        return nn.matmul_transpose(x, self.weight)


class Upper(jt.Module):
    """The upper variable, a row or a column."""

    def __init__(self, value: Any, problem: str) -> None:
        self.value = jt.array(value.reshape(1, -1) if problem == "l2" else value)


class Problem:
    """Models, batches and objectives of one problem."""

    def __init__(self, name: str) -> None:
        self.arrays: Arrays = arrays(name)
        self.lower_model = Linear(self.arrays.weight)
        self.upper_model = Upper(self.arrays.upper, name)
        self.train, self.val = (
            {"data": jt.array(data), "target": jt.array(target)}
            for data, target in (self.arrays.train, self.arrays.val)
        )
        jt.sync([*self.train.values(), *self.val.values(), self.lower_model.weight, self.upper_model.value])
        self.lower = lower_l2 if name == "l2" else lower_cleaning


def lower_l2(batch: dict[str, Any], ul_model: jt.Module, ll_model: Any, **_: Any) -> jt.Var:
    """Training loss with one L2 weight per feature."""
    loss = nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"])
    weight = next(iter(ll_model.parameters()))
    return loss + 0.5 * (ul_model.value.exp() * weight * weight).sum()


def lower_cleaning(batch: dict[str, Any], ul_model: jt.Module, ll_model: Any, **_: Any) -> jt.Var:
    """Training loss with one weight per sample."""
    losses = nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"], reduction="none")
    return (losses * ul_model.value.sigmoid()).mean()


def upper(batch: dict[str, Any], ul_model: jt.Module, ll_model: Any, **_: Any) -> jt.Var:
    """Validation loss."""
    return nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"])
