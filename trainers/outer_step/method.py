"""One pass of a trainer's method, from where the trainer stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jboat import functional
from jboat.trainers import seeding
from jboat.trainers.data.step_batches import Pair
from jboat.trainers.outer_step import chains, device_memory
from jboat.trainers.outer_step.chains import Events
from jboat.trainers.outer_step.dual_multiplier import dual_multiplier_pass
from jboat.trainers.outer_step.first_order import first_order_pass
from jboat.trainers.outer_step.result import HyperGradientResult
import jittor as jt

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer


def run(trainer: BilevelTrainer, pair: Pair, events: Events, task: int) -> HyperGradientResult:
    """Lower loop and hypergradient chain, the dual multiplier method or a first-order method.

    Args:
        trainer: whose outer step it is.
        pair: the batches.
        events: called on the way.
        task: which of the outer step's pairs it is, from 0.
    """
    problem, step = trainer.problem, trainer.state.step + 1
    with device_memory.named(problem.finisher, step):
        if trainer.fo_op is not None:
            return first_order_pass(problem, pair, step=step, auxiliary=trainer.auxiliary or None, events=events)
        if not problem.has_lower_loop:
            multiplier = trainer.auxiliary.get("multiplier")
            return dual_multiplier_pass(
                problem, pair, step=step, ll_state=_carried(trainer), multiplier=multiplier, events=events
            )
        return chains.bilevel_pass(problem, pair, step=step, events=events, **_start(trainer, task))


def unrolled_value(trainer: BilevelTrainer, x: Sequence[jt.Var]) -> float:
    """F(x, y_K(x)) on the batches of the outer step under way, averaged over its pairs; nothing changes.

    Args:
        trainer: whose outer step it is; it must have a lower loop.
        x: one Var per entry of ``ul_var``.
    """
    buffers = [b for model in (trainer.ul_model, trainer.ll_model) for b in functional.buffers(model)]
    values = []
    for task, pair in enumerate(trainer.pairs):
        start, moved = _start(trainer, task), trainer.ul_var
        if trainer.problem.plan.initializer is not None:  # x is the initialisation alone
            start["initial"], moved = x, []
        with functional.preserved(buffers), functional.substituted(moved, x[: len(moved)]):
            values.append(chains.unrolled_value(trainer.problem, pair, **start))
    return sum(values) / len(values)


def lower_gradient_norm(trainer: BilevelTrainer, y: Sequence[jt.Var]) -> float:
    """The Euclidean norm of the lower problem's gradient at y, for the last batches drawn; nothing changes."""
    task = len(trainer.pairs) - 1
    reseed = _start(trainer, task)["reseed"]
    return chains.lower_gradient_norm(trainer.problem, trainer.pairs[task], y, reseed=reseed)


def _start(trainer: BilevelTrainer, task: int) -> dict[str, Any]:
    """Where a lower loop of the present outer step starts."""
    seeds = seeding.derived_seeds(trainer.draw_random_seed(), trainer.state.step, task)

    def reseed(inner_step: int) -> None:
        jt.set_seed(seeds(inner_step))

    return {
        "initial": trainer.next_initial(),
        "ll_state": _carried(trainer),
        "reseed": reseed if trainer.deterministic else None,
    }


def _carried(trainer: BilevelTrainer) -> Any:
    """The lower optimizer's state that the last loop left, where it goes on with it."""
    return trainer.rule.load() if trainer.ll_optimizer_state == "carry" else None
