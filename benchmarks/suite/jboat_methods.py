"""The suite's problems as Jittor modules and objectives, and the trainer of a method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jboat import BilevelTrainer
from jboat.callbacks import Callback
import jittor as jt
from jittor import nn
from methods_by_hand import LAMBDA_INIT, LAMBDA_MAX, LAMBDA_POWER, LOWER_STEPS, SOLVER_STEPS
import numpy as np
from numpy_problems import Cleaning, Problem

OPTIONS: dict[str, dict[str, Any]] = {
    "STOCBIO": {"terms": SOLVER_STEPS},
    "AMIGO": {"v_steps": SOLVER_STEPS},
    "F2SA": {"lambda_init": LAMBDA_INIT, "lambda_power": LAMBDA_POWER, "lambda_max": LAMBDA_MAX},
    "CG": {"k": SOLVER_STEPS},
}
SINGLE_LOOP = ("SOBA", "MASOBA", "SABA", "SRBA", "MRBO", "SUSTAIN", "STOCBIO", "AMIGO", "F2SA")
FIRST_ORDER = ("MESO", "VFO", "PGDO")
METHODS = (*SINGLE_LOOP, "RAD", "CG", "FD", *FIRST_ORDER)
Objective = Callable[..., jt.Var]


class Point(jt.Module):
    """A model that is one array."""

    def __init__(self, value: np.ndarray) -> None:
        self.value = jt.array(value.astype(np.float32))

    def execute(self) -> jt.Var:
        """The array."""
        return self.value


def quadratic(batch: dict[str, jt.Var], x: jt.Var, y: jt.Var) -> jt.Var:
    """What both objectives of the quadratic have in common."""
    count = batch["b"].shape[0]
    along = (batch["A"] * y).sum(2) * y * 0.5 + batch["b"] * y
    return (along.sum() + ((batch["C"] * y).sum(2) * x).sum()) / count


def objectives(problem: Problem) -> tuple[Objective, Objective]:
    """F and F of a problem."""

    def logits(batch: dict[str, jt.Var], ll_model: Point) -> jt.Var:
        return jt.matmul(batch["data"], ll_model())

    def logistic(batch: dict[str, jt.Var], ll_model: Point) -> jt.Var:
        wrong = -batch["target"] * (batch["data"] * ll_model()).sum(1)
        return nn.softplus(wrong).mean()

    def cross_entropy(batch: dict[str, jt.Var], ll_model: Point) -> jt.Var:
        return nn.cross_entropy_loss(logits(batch, ll_model), batch["target"])

    def penalty(ul_model: Point, ll_model: Point) -> jt.Var:
        return 0.5 * (ul_model().exp() * ll_model() * ll_model()).sum()

    def weighted(batch: dict[str, jt.Var], ul_model: Point, ll_model: Point) -> jt.Var:
        losses = nn.cross_entropy_loss(logits(batch, ll_model), batch["target"], reduction="none")
        weights = ul_model()[batch["place"]].sigmoid()
        return (weights * losses).mean() + Cleaning.penalty * (ll_model() * ll_model()).sum()

    pairs: dict[str, tuple[Objective, Objective]] = {
        "quadratic": (
            lambda batch, ul_model, ll_model: quadratic(batch, ul_model(), ll_model()),
            lambda batch, ul_model, ll_model: (
                quadratic(batch, ul_model(), ll_model()) + 0.5 * (ul_model() * ul_model()).sum()
            ),
        ),
        "logistic": (
            lambda batch, ul_model, ll_model: logistic(batch, ll_model) + penalty(ul_model, ll_model),
            lambda batch, ul_model, ll_model: logistic(batch, ll_model),
        ),
        "softmax": (
            lambda batch, ul_model, ll_model: cross_entropy(batch, ll_model) + penalty(ul_model, ll_model),
            lambda batch, ul_model, ll_model: cross_entropy(batch, ll_model),
        ),
        "cleaning": (weighted, lambda batch, ul_model, ll_model: cross_entropy(batch, ll_model)),
    }
    return pairs[problem.name]


def make_trainer(
    problem: Problem, method: str, lr_y: float, lr_x: float, callbacks: tuple[Callback, ...] = ()
) -> BilevelTrainer:
    """A trainer of this method, with plain optimizers of these rates."""
    ll_model, ul_model = Point(problem.y0), Point(problem.x0)
    lower, upper = objectives(problem)
    place: dict[str, Any] = {"sl_op": method} if method in SINGLE_LOOP else {"na_op": [method]}
    if method in FIRST_ORDER:
        place = {"fo_op": method}
    return BilevelTrainer(
        ll_model,
        ul_model,
        lower,
        upper,
        ll_optimizer=jt.optim.SGD(list(ll_model.parameters()), lr_y),
        ul_optimizer=jt.optim.SGD(list(ul_model.parameters()), lr_x),
        lower_iters=LOWER_STEPS,
        solver_config={method: OPTIONS[method]} if method in OPTIONS else None,
        callbacks=callbacks,
        **place,
    )


def loader(batches: list[dict[str, np.ndarray]]) -> list[dict[str, jt.Var]]:
    """The batches as Vars of float32, computed."""
    made = [
        {n: jt.array(a.astype(np.int32 if a.dtype.kind == "i" else np.float32)).stop_grad() for n, a in batch.items()}
        for batch in batches
    ]
    jt.sync([v for batch in made for v in batch.values()])
    return made
