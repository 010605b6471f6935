"""The loop of ``fit``: epochs, outer steps, evaluation and the calls of the callbacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
import logging
from pathlib import Path
import time
from typing import TYPE_CHECKING, Any

from jboat import functional, running_statistics
from jboat.plain_numbers import plain_inside
from jboat.trainers import seeding
from jboat.trainers.data.loader_stream import LoaderStream
from jboat.trainers.data.step_batches import Pair, draw_pairs
from jboat.trainers.history_recorder import record
from jboat.trainers.interrupt import DeferredInterrupt, InterruptedFit
from jboat.trainers.outer_step.chains import Events, failure_of
from jboat.trainers.outer_step.result import HyperGradientResult, mean
from jboat.trainers.persistence.checkpoint import CheckpointError
from jboat.trainers.persistence.resume import resume, way_on
from jboat.trainers.trainer_state import StopReason
from jboat.trajectory import Trajectory
import jittor as jt

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
    """

    def __init__(
        self,
        trainer: BilevelTrainer,
        ll_loader: Any,
        ul_loader: Any,
        val_loader: Any,
        val_every: int | None,
        check_second_order: bool,
    ) -> None:
        self._trainer = trainer
        self._state = trainer.state
        seed = trainer.draw_random_seed()
        seeds = [seeding.derived_seed(seed, level, trainer.state.step) for level in (1, 2, 3)]
        self.ll_stream = LoaderStream(ll_loader, "ll_loader", seeds[0] if trainer.deterministic else None)
        self.ul_stream = LoaderStream(ul_loader, "ul_loader", seeds[1] if trainer.deterministic else None)
        self._val_loader = val_loader
        self.val_stream: LoaderStream | None = None
        if val_loader is not None:
            self.val_stream = LoaderStream(val_loader, "val_loader", seeds[2] if trainer.deterministic else None)
        self._val_every = val_every
        self._check_second_order = check_second_order
        self._first_batch_checked = False
        self._statistics = [b for model in (trainer.ul_model, trainer.ll_model) for b in functional.buffers(model)]
        self._keeps_measured = False
        self._callback_seconds = 0.0
        self._data_seconds = 0.0

    def run(
        self, *, max_epochs: int | None, max_steps: int | None, max_time: float | None, resume_from: str | Path | None
    ) -> None:
        """Train until a limit is reached or a callback asks to stop."""
        trainer, state = self._trainer, self._state
        interrupt, message = DeferredInterrupt(), ""
        try:
            with interrupt:
                self._call("setup")
                state.step_metrics = {}
                state.evaluation_metrics = trainer.evaluation_metrics() if self._val_loader is not None else ()
                if resume_from is not None:
                    resume(trainer, resume_from)
                resumed = trainer.resumption.take_up(self, trainer.callbacks)
                state.begin_fit(resumed=resumed, max_epochs=max_epochs, max_steps=max_steps)
                self._begin(resumed)
                self._keeps_measured = any(c.wants_measured_values(trainer, state) for c in trainer.callbacks.callbacks)
                self._call("on_fit_start")
                interrupt.raise_if_requested()
                begun = time.perf_counter() - state.elapsed
                self._loop(begun, max_time, interrupt)
                self._call("on_fit_end")
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
                interrupt.deliver(message)

    def positions(self) -> dict[str, Any]:
        """Where the loaders stand, for a checkpoint."""
        streams = {"ll": self.ll_stream, "ul": self.ul_stream, "val": self.val_stream}
        return {name: stream.state_dict() for name, stream in streams.items() if stream is not None}

    def take_positions(self, positions: Mapping[str, Any]) -> None:
        """Send the loaders where a checkpoint left them.

        Raises:
            CheckpointError: if they cannot have stood there, or give other batches.
        """
        try:
            self.ll_stream.load_state_dict(positions["ll"])
            self.ul_stream.load_state_dict(positions["ul"])
        except ValueError as error:
            raise CheckpointError(str(error)) from error
        if self.val_stream is not None and "val" in positions:
            try:
                self.val_stream.load_state_dict(positions["val"])
            except ValueError as error:
                logger.warning("%s: its order starts afresh", error)

    def evaluates_after(self, step: int) -> bool:
        """Whether an evaluation follows this outer step, wherever its epoch stands."""
        return self._val_every is not None and step % self._val_every == 0

    def _begin(self, resumed: bool) -> None:
        trainer = self._trainer
        if not resumed and trainer.seed is not None and trainer.state.step == 0:
            seeding.seed_everything(trainer.seed)
        if trainer.initialization is None:
            trainer.initialization = functional.cut(trainer.ll_var)

    def _call(self, hook: str, *extra: Any) -> None:
        if not self._trainer.callbacks.listens(hook):
            return
        begun = time.perf_counter()
        self._trainer.callbacks.call(hook, self._trainer, self._state, *extra)
        self._callback_seconds += time.perf_counter() - begun

    def _loop(self, begun: float, max_time: float | None, interrupt: DeferredInterrupt) -> None:
        """Go through the phases of the loop from wherever the state says; see ``TrainerState.phase``."""
        state = self._state
        while True:
            if state.phase in ("start", "epoch end"):
                if self._reached_epoch_limit() or state.stop_reason is not None:
                    return
                self.ll_stream.wrapped = False
                self._call("on_epoch_start")
                state.phase = "next"
            if state.phase == "next":
                if state.stop_reason is not None:
                    return
                pairs = self._draw()
                if pairs is None:
                    state.phase = "step evaluated"
                else:
                    self._outer_step(pairs)
                    state.elapsed = time.perf_counter() - begun
                    self._request_stop_at_limits(max_time)
                    state.phase = "step"
                    self._end_step()
            if state.phase == "step":
                self._request_stop_at_limits(max_time)
                if self.evaluates_after(state.step):
                    self._validate("step evaluated")
                state.phase = "step evaluated"
                interrupt.raise_if_requested()
            if state.phase == "step evaluated":
                self._request_stop_at_limits(max_time)  # a run may be resumed here
                if self._pass_is_over():
                    state.epoch += 1
                    state.phase = "epoch"
                else:
                    state.phase = "next"
            if state.phase == "epoch":
                if self._val_loader is not None and self._val_every is None:
                    self._validate("epoch evaluated")
                state.phase = "epoch evaluated"
            if state.phase == "epoch evaluated":
                self._reached_epoch_limit()
                state.phase = "epoch end"
                self._call("on_epoch_end")
                interrupt.raise_if_requested()

    def _end_step(self) -> None:
        """Tell the callbacks of a finished step, which has its row in the history whatever they do."""
        trainer, state = self._trainer, self._state
        try:
            self._call("on_step_end")
        except BaseException:
            state.metrics = {name: value for name, value in state.metrics.items() if isinstance(value, (int, float))}
            record(trainer, state)
            raise

    def _pass_is_over(self) -> bool:
        """Whether the pass over the lower loader has ended; a run about to stop looks whether it has."""
        stream = self.ll_stream
        if stream.wrapped or stream.between_passes:
            return True
        if self._state.stop_reason is not None and stream.may_be_at_end and stream.draw() is None:
            stream.commit()
            return True
        return False

    def _reached_epoch_limit(self) -> bool:
        state = self._state
        if state.max_epochs is not None and state.epoch >= state.max_epochs:
            state.request_stop(StopReason.MAX_EPOCHS)
            return True
        return False

    def _request_stop_at_limits(self, max_time: float | None) -> None:
        state = self._state
        if state.max_steps is not None and state.step >= state.max_steps:
            state.request_stop(StopReason.MAX_STEPS)
        if max_time is not None and state.elapsed >= max_time:
            state.request_stop(StopReason.MAX_TIME)

    def _draw(self) -> list[Pair] | None:
        trainer = self._trainer
        begun = time.perf_counter()
        pairs = draw_pairs(
            self.ll_stream,
            self.ul_stream,
            pairs=trainer.accumulate,
            lower_steps=trainer.lower_iters,
            fresh=trainer.lower_batches == "fresh",
        )
        self._data_seconds += time.perf_counter() - begun
        if pairs is None:
            self.ll_stream.commit()
        if pairs is not None and not self._first_batch_checked:
            trainer.problem.begin_step()
            trainer.second_order.check(trainer, pairs[0], second_order=self._check_second_order)
            self._first_batch_checked = True
        return pairs

    def _outer_step(self, pairs: list[Pair]) -> None:
        trainer, state = self._trainer, self._state
        trainer.pairs = pairs
        state.inner_step = 0
        self._call("on_step_start")
        statistics = running_statistics.noted(self._statistics)
        try:
            self._train_on(pairs, statistics)
        except BaseException:
            running_statistics.put(self._statistics, statistics)  # the step is not finished, and may be done again
            raise

    def _train_on(self, pairs: list[Pair], statistics: list[jt.Var]) -> None:
        trainer, state = self._trainer, self._state
        begun = time.perf_counter()
        events = Events(
            self._call,
            on_lower_step=self._on_lower_step if trainer.callbacks.listens("on_lower_step_end") else None,
            lower_losses=any(c.wants_lower_losses(trainer, state) for c in trainer.callbacks.callbacks),
        )
        trainer.problem.begin_step()
        result = mean([trainer.run_pass(pair, events, task) for task, pair in enumerate(pairs)])
        self._call("on_before_upper_step", result)
        failure = None if result.skip else failure_of(trainer.problem, result, state.step + 1)
        if failure is not None:
            raise failure
        update_begun = time.perf_counter()
        step_metrics = {
            "ll_loss": result.lower_loss,
            "ul_loss": result.upper_loss,
            "hypergradient_norm": result.norm,
            "ll_lr": trainer.rule.learning_rates()[0],
            "ul_lr": _learning_rate(trainer.ul_optimizer),
            **result.diagnostics,
        }
        trainer.zero_watch.look_at(trainer, result, step_metrics["hypergradient_norm"])
        measured = self._measured_at(result) if self._keeps_measured else None
        if result.skip:
            running_statistics.put(self._statistics, statistics)
        else:
            self._update(result)
        state.step += 1
        now = time.perf_counter()
        step_metrics["time_lower"] = events.seconds["lower"]
        step_metrics["time_hypergradient"] = events.seconds["hypergradient"]
        step_metrics["time_update"] = now - update_begun
        step_metrics["time_step"] = now - begun
        step_metrics["time_data"], self._data_seconds = self._data_seconds, 0.0
        step_metrics["time_callbacks"], self._callback_seconds = self._callback_seconds, 0.0
        state.step_left_out = result.skip
        state.metrics, state.step_metrics = {**state.validation, **step_metrics}, step_metrics
        trainer.measured = measured
        self.ll_stream.commit()
        self.ul_stream.commit()

    def _on_lower_step(self, inner_step: int, trajectory: Trajectory) -> None:
        self._state.inner_step = inner_step
        self._call("on_lower_step_end")

    def _measured_at(self, result: HyperGradientResult) -> list[tuple[jt.Var, jt.Var]]:
        """The variables of both levels with the values at which the step's own metrics were measured."""
        trainer = self._trainer
        y = result.upper_loss_at or result.ll_parameters
        pairs = [*zip(trainer.ll_var, y, strict=True), *zip(trainer.ul_var, trainer.ul_var, strict=True)]
        return [(variable, value.detach()) for variable, value in pairs]

    def _update(self, result: HyperGradientResult) -> None:
        trainer = self._trainer
        for variable, value in zip(trainer.ll_var, result.ll_parameters, strict=True):
            variable.update(value.detach())
        if trainer.ll_optimizer_state == "carry" and result.ll_state is not None:
            trainer.rule.store(result.ll_state)
        if result.ll_init_gradient is not None and trainer.initialization is not None:
            next_start = trainer.problem.options.next_start
            trainer.initialization = functional.cut(next_start(trainer.initialization, result.ll_init_gradient))
        trainer.auxiliary = result.auxiliary
        with learning_rate(trainer.ul_optimizer, result.ul_learning_rate):
            upper_step(trainer.ul_optimizer, trainer.ul_var, result.gradients)
        jt.sync([*trainer.ll_var, *self._statistics])

    def _validate(self, next_phase: str) -> None:
        trainer, state = self._trainer, self._state
        self._call("on_evaluate_start")
        assert self.val_stream is not None
        means = trainer.evaluate(self.val_stream.one_pass)
        self.val_stream.commit()
        state.validation = {f"val_{name}": value for name, value in means.items()}
        state.metrics = {**state.metrics, **state.validation}
        state.phase = next_phase
        self._call("on_evaluate_end")


def upper_step(optimizer: jt.optim.Optimizer, variables: list[jt.Var], gradients: list[jt.Var]) -> None:
    """One step of the user's optimizer with these gradients.

    Jittor's optimizers take gradients from a loss alone; the loss ``<x, g>`` has the gradient g.
    """
    jittors = type(optimizer).__module__ == jt.optim.__name__  # others might scale the loss
    loss = functional.start_of_gradient if jittors else functional.dot
    gradients = functional.of_dtypes(functional.detached(gradients), variables)
    with plain_inside([vars(optimizer), *optimizer.param_groups]):
        optimizer.step(loss(variables, gradients))
    lists = [values for group in optimizer.param_groups for values in group.values() if isinstance(values, list)]
    jt.sync([v for values in lists for v in values if isinstance(v, jt.Var)])


@contextmanager
def learning_rate(optimizer: jt.optim.Optimizer, rate: float | None) -> Iterator[None]:
    """Let every parameter group have this learning rate inside the block; None changes nothing."""
    own = [(group, group.get("lr")) for group in optimizer.param_groups]
    if rate is not None:
        for group, _ in own:
            group["lr"] = rate
    try:
        yield
    finally:
        for group, before in own:
            if before is not None:
                group["lr"] = before
            elif rate is not None:
                del group["lr"]


def _learning_rate(optimizer: jt.optim.Optimizer) -> float:
    return float(optimizer.param_groups[0].get("lr", optimizer.lr))
