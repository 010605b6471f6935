"""A hypergradient on two batches, outside of ``fit``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jboat import functional
from jboat.loss_scale import kept
from jboat.trainers.data.floats import as_wide_as
from jboat.trainers.data.loaders import drawn
from jboat.trainers.data.sharding import Sharding, require_same_batches
from jboat.trainers.data.step_batches import Pair, task_pairs
from jboat.trainers.device_scope import device_scope
from jboat.trainers.outer_step.method import Events
from jboat.trainers.outer_step.result import HyperGradientResult
from jboat.trial_calls import on_trial

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer


def hypergradient_of(
    trainer: BilevelTrainer, ll_batch: Any, ul_batch: Any, *, check_second_order: bool
) -> HyperGradientResult:
    """The hypergradient at a trainer's present parameters, which stay as they are; see ``hypergradient``."""
    run = trainer.current_run
    with as_wide_as(trainer.ll_var):
        whole = _pairs(trainer, ll_batch, ul_batch)
        require_same_batches(whole)
        pairs, share = Sharding().own(whole)
    run.problem.begin_step()
    on_device = device_scope(trainer.device, run.half_precision)
    with on_device, functional.preserved(run.problem.statistics()), on_trial(), kept(run.loss_scale):
        if check_second_order and run.second_order.is_due(run.method):
            run.check_first_batch(pairs[0])
        result = run.step(pairs, Events(), share)
        while run.has_overflowed(result):
            result = run.step(pairs, Events(), share)
    if result.failure is not None:
        raise result.failure
    if not run.zero_watch.settled:
        run.look_for_zero(result)
    return result


def _pairs(trainer: BilevelTrainer, ll_batch: Any, ul_batch: Any) -> list[Pair]:
    """The pairs of batches that the two arguments stand for."""
    if trainer.current_run.method.takes_lists:
        items = [drawn(ll_batch, "ll_batch", fixed=True), drawn(ul_batch, "ul_batch", fixed=True)]
        lower, upper = ([item] if isinstance(item, dict) else item for item in items)
        return [(lower, upper)]
    fresh = trainer.lower_batches == "fresh"
    given = list(ll_batch) if fresh else [ll_batch]
    if fresh and len(given) != trainer.lower_iters:
        raise ValueError(f"ll_batch must be a list of lower_iters = {trainer.lower_iters} batches, got {len(given)}")
    lower_items = [drawn(item, "ll_batch", fixed=True) for item in given]
    return task_pairs(lower_items, drawn(ul_batch, "ul_batch", fixed=True), fresh)
