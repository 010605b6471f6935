"""What a trainer was made with, as JSON can hold it: what a checkpoint is compared by."""

from __future__ import annotations

from collections.abc import Mapping
import copy
from typing import TYPE_CHECKING, Any

from jboat.callbacks.lr_schedule import LRSchedule
from jboat.projections import name_of
import jittor as jt

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer


def described(trainer: BilevelTrainer) -> dict[str, Any]:
    """Operators, options, optimizers with their parameter groups, and the arguments of schedules."""
    given = {"fo_op": trainer.fo_op, "sl_op": trainer.sl_op}
    single = {argument: name for argument, name in given.items() if name is not None}
    chains = {"gm_op": list(trainer.gm_op), "na_op": list(trainer.na_op)}
    return {
        **(single or chains),
        **_parts_of_steps(trainer),
        "lower_iters": trainer.lower_iters,
        "solver_config": copy.deepcopy(trainer.solver_config),
        "ll_model": type(trainer.ll_model).__name__,
        "ul_model": type(trainer.ul_model).__name__,
        "ll_optimizer": _described(trainer.ll_optimizer),
        "ul_optimizer": _described(trainer.ul_optimizer),
        "warm_start": trainer.warm_start,
        "lower_batches": trainer.lower_batches,
        "ll_optimizer_state": trainer.ll_optimizer_state,
        "accumulate": trainer.accumulate,
        "seed": trainer.seed,
        "device": trainer.device,
        "deterministic": trainer.deterministic,
        "schedules": {c.key: c.arguments() for c in trainer.callbacks.callbacks if isinstance(c, LRSchedule)},
    }


def _parts_of_steps(trainer: BilevelTrainer) -> dict[str, Any]:
    """What steps have besides their optimizers; nothing in a run that has none of it."""
    problem = trainer.current_run.problem
    given = {"ll_projection": problem.ll_projection, "ul_projection": problem.ul_projection}
    names: dict[str, Any] = {argument: name_of(p) for argument, p in given.items() if p is not None}
    if problem.lower_micro_batches > 1:
        names["lower_micro_batches"] = problem.lower_micro_batches
    if trainer.tasks_together != 1:
        names["tasks_together"] = trainer.tasks_together
    if trainer.precision != "fp32":
        names["precision"] = trainer.precision
    if trainer.loss_scale is not None:
        names["loss_scale"] = trainer.loss_scale
    return names if problem.learned is None else {**names, "ll_hyperparameters": sorted(problem.learned.names)}


def _described(optimizer: jt.optim.Optimizer) -> dict[str, Any]:
    def plain(values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if isinstance(value, (bool, int, float, tuple))}

    groups: dict[str, Any] = {"number": len(optimizer.param_groups)}
    groups |= {str(i): plain(group) for i, group in enumerate(optimizer.param_groups)}
    return {"class": type(optimizer).__name__, **plain(optimizer.defaults), "groups": groups}
