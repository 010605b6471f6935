"""The loop of ``fit``: epochs, outer steps, evaluation, and the ends that a run can come to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import logging
from pathlib import Path
import time
from typing import TYPE_CHECKING, Any

from jboat import functional
from jboat.backend import ranks
from jboat.trainers import seeding
from jboat.trainers.data.fit_streams import FitStreams
from jboat.trainers.fit_step import FitStep
from jboat.trainers.history_recorder import record
from jboat.trainers.interrupt import DeferredInterrupt, InterruptedFit
from jboat.trainers.lockstep import Lockstep
from jboat.trainers.persistence.resume import resume, way_on
from jboat.trainers.step_metrics import StepMetrics, with_evaluation
from jboat.trainers.timed_hooks import TimedHooks
from jboat.trainers.trainer_state import Phase, StopReason

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer

logger = logging.getLogger("jboat")


class FitLoop:
    """One call of ``fit``.

    Args:
        trainer: what is trained.
        ll_loader: lower batches.
        ul_loader: upper batches.
        val_loader: batches to evaluate, or None.
        val_every: evaluate every so many outer steps; None for the end of every epoch.
        check_second_order: whether to look at the lower objective's second derivatives before the first step.
        evaluation_metrics: tells what evaluations give by name, None where that is not known.
        limits: how many batches a pass over each loader has at most.
        end_pass: whether the epoch ends where the run does.

    Attributes:
        streams: the loaders and where they stand.
    """

    def __init__(
        self,
        trainer: BilevelTrainer,
        ll_loader: Any,
        ul_loader: Any,
        val_loader: Any,
        val_every: int | None,
        check_second_order: bool,
        evaluation_metrics: Callable[[], tuple[str, ...] | None],
        *,
        limits: Sequence[int | None] = (None, None, None),
        end_pass: bool = False,
    ) -> None:
        self._trainer = trainer
        self._run = trainer.current_run
        self._state = trainer.state
        seed = trainer.current_run.draw_random_seed()
        seeds = [seeding.derived_seed(seed, level, trainer.state.step) for level in (1, 2, 3)]
        seeded = trainer.deterministic or ranks.size() > 1  # all ranks read in the same order
        self.streams = FitStreams(ll_loader, ul_loader, val_loader, seeds if seeded else [None] * 3, limits)
        self._lockstep = Lockstep(trainer, {"ll_loader": ll_loader, "ul_loader": ul_loader, "val_loader": val_loader})
        self._val_every = val_every
        self._end_pass = end_pass
        self._evaluation_metrics = evaluation_metrics
        self._hooks = TimedHooks(trainer)
        self._step = FitStep(trainer, self.streams, self._hooks, check_second_order=check_second_order)
        self._interrupt = DeferredInterrupt()
        self._begun = 0.0
        self._max_time: float | None = None

    def run(
        self, *, max_epochs: int | None, max_steps: int | None, max_time: float | None, resume_from: str | Path | None
    ) -> None:
        """Train until a limit is reached or a callback asks to stop."""
        trainer, state = self._trainer, self._state
        interrupt, message = self._interrupt, ""
        try:
            with interrupt:
                self._run.logged.begin_fit()
                self._run.logged.begin_step()
                self._hooks.call("setup")
                state.step_metrics = {}
                state.evaluation_metrics = self._evaluation_metrics() if self.streams.val is not None else ()
                if resume_from is not None:
                    resume(trainer, resume_from)
                resumed = self._run.resumption.take_up(self, trainer.callbacks)
                state.begin_fit(resumed=resumed, max_epochs=max_epochs, max_steps=max_steps)
                if state.phase.ends_step:
                    self._run.logged.go_on(trainer.history.rows)
                self._begin(resumed)
                self._lockstep.begin()
                self._step.begin_fit()
                self._hooks.call("on_fit_start")
                self._stop_together()
                self._begun, self._max_time = time.perf_counter() - state.elapsed, max_time
                self._train()
                self._hooks.call("on_fit_end")
        except InterruptedFit as error:
            if state.stop_reason not in StopReason.lasting():
                state.stop_reason = StopReason.INTERRUPTED
            try:
                trainer.callbacks.call_all("on_exception", trainer, state, error)
            except Exception as failure:
                logger.error("%s: %s: %s", error, type(failure).__name__, failure)
                raise
            place = f"within outer step {state.step + 1}" if error.at_once else f"after outer step {state.step}"
            message = f"{error} {place}; {way_on(trainer)}"
            logger.warning("%s", message)
        except BaseException as error:
            if interrupt.received is not None:  # which ends the program without a word
                logger.error("fit failed: %s: %s", type(error).__name__, error)
            trainer.callbacks.call_all("on_exception", trainer, state, error)
            raise
        finally:
            try:
                trainer.callbacks.call_all("teardown", trainer, state)
            finally:
                self._run.logged.end_fit()
                interrupt.deliver(message)

    def evaluates_after(self, step: int) -> bool:
        """Whether an evaluation follows this outer step, wherever its epoch stands."""
        return self._val_every is not None and step % self._val_every == 0

    def _begin(self, resumed: bool) -> None:
        trainer = self._trainer
        if not resumed and trainer.seed is not None and trainer.state.step == 0:
            seeding.seed_everything(trainer.seed)
        if self._run.initialization is None:
            self._run.initialization = functional.cut(trainer.ll_var)
        if resumed and trainer.state.phase is Phase.NEXT:
            self.streams.ll.wrapped = False  # what was saved within an epoch's first step is that of the epoch before

    def _train(self) -> None:
        """Epochs of outer steps.

        A run that is resumed stands anywhere in here: each part is left out where the phase says that it is done.
        """
        state = self._state
        while not self._ends_between_epochs():
            self._begin_epoch()
            while state.phase.in_pass:
                if self._ends_between_steps():
                    return
                self._take_step()
                self._evaluate_after_step()
                self._look_whether_pass_is_over()
            self._evaluate_after_epoch()
            self._end_epoch()

    def _ends_between_epochs(self) -> bool:
        state = self._state
        return state.phase.between_epochs and (self._reached_epoch_limit() or state.stop_reason is not None)

    def _begin_epoch(self) -> None:
        if self._state.phase.between_epochs:
            self.streams.ll.wrapped = False
            self._run.logged.begin_step()
            self._hooks.call("on_epoch_start")
            self._state.phase = Phase.NEXT
            self._stop_together()

    def _ends_between_steps(self) -> bool:
        return self._state.phase is Phase.NEXT and self._state.stop_reason is not None

    def _take_step(self) -> None:
        state = self._state
        if state.phase is not Phase.NEXT:
            return
        pairs = self._step.draw()
        if pairs is None:
            state.phase = Phase.STEP_EVALUATED
            return
        self._step.take(pairs)
        state.elapsed = time.perf_counter() - self._begun
        self._request_stop_at_limits()
        state.phase = Phase.STEP
        self._end_step()

    def _evaluate_after_step(self) -> None:
        state = self._state
        if state.phase is not Phase.STEP:
            return
        self._request_stop_at_limits()
        if self.evaluates_after(state.step):
            self._evaluate(Phase.STEP_EVALUATED)
        state.phase = Phase.STEP_EVALUATED
        self._stop_together()

    def _look_whether_pass_is_over(self) -> None:
        """Go on to the next step or to the end of the epoch; a run about to stop looks whether the pass has ended."""
        state = self._state
        self._request_stop_at_limits()  # a run may be resumed here
        stops = state.stop_reason is not None
        if self.streams.pass_is_over(look=stops) or (stops and self._end_pass):
            state.epoch += 1
            state.phase = Phase.EPOCH
        else:
            state.phase = Phase.NEXT

    def _evaluate_after_epoch(self) -> None:
        state = self._state
        if state.phase is not Phase.EPOCH:
            return
        if self.streams.val is not None and self._val_every is None:
            self._evaluate(Phase.EPOCH_EVALUATED)
        state.phase = Phase.EPOCH_EVALUATED

    def _end_epoch(self) -> None:
        if self._state.phase is Phase.EPOCH_EVALUATED:
            self._reached_epoch_limit()
            self._state.phase = Phase.EPOCH_END
            self._hooks.call("on_epoch_end")
            self._stop_together()

    def _stop_together(self) -> None:
        """End the run if a signal came, to this rank or another; what one rank asks to stop, all stop."""
        if ranks.size() > 1:
            received = self._lockstep.agree(self._state, self._interrupt.received)
            if received is None:  # one that has come since is for the next time
                return
            self._interrupt.adopt(received)
        self._interrupt.raise_if_requested()

    def _end_step(self) -> None:
        """Tell the callbacks of a finished step, which has its row in the history whatever they do."""
        trainer, state = self._trainer, self._state
        try:
            self._hooks.call("on_step_end")
        except BaseException:
            numbers = {name: value for name, value in state.metrics.items() if isinstance(value, (int, float))}
            state.metrics = StepMetrics(numbers)
            record(trainer, state)
            raise

    def _reached_epoch_limit(self) -> bool:
        state = self._state
        if state.max_epochs is not None and state.epoch >= state.max_epochs:
            state.request_stop(StopReason.MAX_EPOCHS)
            return True
        return False

    def _request_stop_at_limits(self) -> None:
        state = self._state
        if state.max_steps is not None and state.step >= state.max_steps:
            state.request_stop(StopReason.MAX_STEPS)
        if self._max_time is not None and state.elapsed >= self._max_time:
            state.request_stop(StopReason.MAX_TIME)

    def _evaluate(self, next_phase: Phase) -> None:
        trainer, state = self._trainer, self._state
        self._hooks.call("on_evaluate_start")
        assert self.streams.val is not None
        means = trainer.evaluate(self.streams.val.one_pass)
        self.streams.val.commit()
        state.validation = {f"val_{name}": value for name, value in means.items()}
        state.metrics = with_evaluation(state.metrics, state.validation)
        state.phase = next_phase
        self._hooks.call("on_evaluate_end")
