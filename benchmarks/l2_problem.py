"""The benchmark problem: logistic regression with one L2 weight per feature."""

from __future__ import annotations

from typing import Any

import jboat  # noqa: F401  (starts Jittor)
import jittor as jt
from jittor import nn
import numpy as np

SAMPLES, FEATURES, CLASSES, RATE = 1000, 1000, 20, 0.1


class Penalties(jt.Module):
    """The logarithm of one L2 weight per feature."""

    def __init__(self) -> None:
        self.log = jt.zeros((1, FEATURES)) - 5.0


def lower(batch: dict[str, Any], ul_model: jt.Module, ll_model: Any) -> jt.Var:
    """Penalised training loss."""
    loss = nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"])
    return loss + 0.5 * (ul_model.log.exp() * ll_model.weight * ll_model.weight).sum()


def upper(batch: dict[str, Any], ul_model: jt.Module, ll_model: Any) -> jt.Var:
    """Validation loss."""
    return nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"])


def batches() -> tuple[dict[str, Any], dict[str, Any]]:
    """The training and the validation data."""
    rng = np.random.default_rng(0)

    def batch() -> dict[str, Any]:
        data = rng.normal(size=(SAMPLES, FEATURES)).astype(np.float32) / np.float32(np.sqrt(FEATURES))
        made = {"data": jt.array(data), "target": jt.array(rng.integers(0, CLASSES, SAMPLES).astype(np.int32))}
        jt.sync(list(made.values()))
        return made

    return batch(), batch()


def models() -> tuple[jt.Module, Penalties]:
    """A linear classifier and its penalties."""
    return nn.Linear(FEATURES, CLASSES, bias=False), Penalties()
