"""The complete program of README, whose kernels ``python -m jboat warmup`` compiles where it is told nothing else."""

from __future__ import annotations

from typing import Any

from jboat.trainers.bilevel_trainer import BilevelTrainer
import jittor as jt
from jittor import nn
import numpy as np


def main() -> None:
    """Learn one L2 penalty per feature of a linear regression, as README does."""
    jt.set_global_seed(0)
    rng = np.random.default_rng(0)
    truth = np.concatenate([rng.normal(size=5), np.zeros(15)])  # only five of twenty features matter
    features = rng.normal(size=(60, 20)).astype("float32")
    labels = (features @ truth + 0.5 * rng.normal(size=60)).astype("float32")[:, None]

    class Penalties(jt.Module):
        def __init__(self) -> None:
            self.log = jt.zeros((1, 20)) - 3.0

    def lower(batch: Any, ul_model: Any, ll_model: Any) -> Any:  # f: training loss with the penalties
        error = ll_model(batch["data"]) - batch["target"]
        return (error * error).mean() + (ul_model.log.exp() * ll_model.weight * ll_model.weight).sum()

    def upper(batch: Any, ul_model: Any, ll_model: Any) -> Any:  # F: validation loss
        error = ll_model(batch["data"]) - batch["target"]
        return (error * error).mean()

    model, penalties = nn.Linear(20, 1), Penalties()
    trainer = BilevelTrainer(
        model,
        penalties,
        lower,
        upper,
        ll_optimizer=jt.optim.SGD(model.parameters(), lr=0.1),
        ul_optimizer=jt.optim.Adam(penalties.parameters(), lr=0.1),
        na_op=["CG"],
        solver_config={"CG": {"k": 30}},
        lower_iters=20,
    )
    train = {"data": features[:30], "target": labels[:30]}
    validation = {"data": features[30:], "target": labels[30:]}
    trainer.fit(train, validation, max_steps=60)
