"""One outer step of ``fit``: its batches, its update and its numbers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from jboat import running_statistics
from jboat.optim.settings import learning_rates
from jboat.sl_ol.batches import Places
from jboat.trainers.data.fit_streams import FitStreams
from jboat.trainers.data.sharding import Sharding, require_same_batches
from jboat.trainers.data.step_batches import Pair, draw_counted, draw_pairs
from jboat.trainers.outer_step.method import Events
from jboat.trainers.timed_hooks import TimedHooks
from jboat.trajectory import Trajectory
import jittor as jt

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer


class FitStep:
    """The outer steps of one ``fit``, one at a time.

    Args:
        trainer: what is trained.
        streams: where batches come from.
        hooks: what is called on the way.
        check_second_order: whether to look at the lower objective's second derivatives before the first step.
    """

    def __init__(
        self, trainer: BilevelTrainer, streams: FitStreams, hooks: TimedHooks, *, check_second_order: bool
    ) -> None:
        self._trainer = trainer
        self._run = trainer.current_run
        self._state = trainer.state
        self._streams = streams
        self._sharding = Sharding()
        self._hooks = hooks
        self._check_second_order = check_second_order
        self._first_batch_checked = False
        self._keeps_measured = False
        self._statistics = trainer.current_run.problem.statistics()
        self._data_seconds = 0.0
        self._places: Places | None = None

    def begin_fit(self) -> None:
        """Ask the callbacks what they want of every step."""
        callbacks = self._trainer.callbacks.callbacks
        self._keeps_measured = any(c.wants_measured_values(self._trainer, self._state) for c in callbacks)

    def draw(self) -> list[Pair] | None:
        """This rank's batches of the next step; None where the pass over the lower loader has ended.

        Raises:
            ValueError: if ranks drew different batches, or a batch has fewer samples than there are ranks.
        """
        begun = time.perf_counter()
        pairs = self._drawn()
        require_same_batches(pairs)
        if pairs is not None:
            pairs, self._run.share = self._sharding.own(pairs)
        self._data_seconds += time.perf_counter() - begun
        if pairs is None:
            self._streams.ll.commit()
        elif not self._first_batch_checked:
            self._run.check_first_batch(pairs[0], second_order=self._check_second_order)
            self._first_batch_checked = True
        return pairs

    def _drawn(self) -> list[Pair] | None:
        trainer, run, streams = self._trainer, self._run, self._streams
        if run.method.takes_lists:
            counts = run.method.batches(self._state.step + 1, streams.lengths, run.auxiliary)
            pairs = draw_counted(streams.ll, streams.ul, lower=counts.lower, upper=counts.upper)
            self._places = streams.places(counts)
            return pairs
        return draw_pairs(
            streams.ll,
            streams.ul,
            pairs=trainer.accumulate,
            lower_iters=trainer.lower_iters,
            fresh=trainer.lower_batches == "fresh",
        )

    def take(self, pairs: list[Pair]) -> None:
        """Take the step, up to its numbers in ``state.metrics``.

        Raises:
            NonFiniteError: if a loss or a gradient is NaN or infinite; running statistics are as before, then.
        """
        self._run.pairs = pairs
        self._state.inner_step = 0
        self._run.logged.begin_step()
        self._hooks.call("on_step_start")
        statistics = running_statistics.noted(self._statistics)
        try:
            self._take(pairs, statistics)
        except BaseException:
            running_statistics.put(self._statistics, statistics)  # the step is not finished, and may be done again
            raise

    def _take(self, pairs: list[Pair], statistics: list[jt.Var]) -> None:
        trainer, run, state = self._trainer, self._run, self._state
        begun = time.perf_counter()
        events = Events(
            self._hooks.call,
            on_lower_step=self._on_lower_step if trainer.callbacks.listens("on_lower_step_end") else None,
            lower_losses=any(c.wants_lower_losses(trainer, state) for c in trainer.callbacks.callbacks),
        )
        found = run.step(pairs, events, run.share, self._places)
        scale = None if run.loss_scale is None else run.loss_scale.value
        overflowed = run.has_overflowed(found)
        found.skip = found.skip or overflowed
        self._hooks.call("on_before_upper_step", found)
        failure = None if found.skip else run.failure_of(found)
        if failure is not None:
            raise failure
        update_begun = time.perf_counter()
        step_metrics = {
            "ll_loss": found.lower_loss,
            "ul_loss": found.upper_loss,
            "hypergradient_norm": found.norm,
            "ll_lr": run.rule.learning_rates()[0],
            "ul_lr": learning_rates(trainer.ul_optimizer)[0],
            **found.diagnostics,
            **({} if scale is None else {"loss_scale": scale}),
        }
        run.look_for_zero(found)
        measured = run.measured_at(found) if self._keeps_measured else None
        if found.skip:
            running_statistics.put(self._statistics, statistics)
            if not overflowed:
                run.look_for_full_start(pairs, self._places)
        else:
            run.move(found)
            jt.sync([*trainer.ll_var, *self._statistics])
            if run.loss_scale is not None:
                run.loss_scale.count_good_step()
        state.step += 1
        now = time.perf_counter()
        step_metrics["time_lower"] = events.seconds["lower"]
        step_metrics["time_hypergradient"] = events.seconds["hypergradient"]
        step_metrics["time_update"] = now - update_begun
        step_metrics["time_step"] = now - begun
        step_metrics["time_data"], self._data_seconds = self._data_seconds, 0.0
        step_metrics["time_callbacks"] = self._hooks.take_seconds()
        state.step_left_out = found.skip
        state.metrics, state.step_metrics = run.logged.end_step(step_metrics), step_metrics
        run.measured = measured
        self._streams.commit()

    def _on_lower_step(self, inner_step: int, trajectory: Trajectory) -> None:
        self._state.inner_step = inner_step
        self._hooks.call("on_lower_step_end")
