"""The loop of ``fit``: epochs, outer steps, evaluation and the calls of the callbacks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from jboat import functional, registry
from jboat.trainers import seeding
from jboat.trainers.bilevel_pass import Events, require_finite_hypergradient
from jboat.trainers.hypergradient_result import HyperGradientResult, mean
from jboat.trainers.loaders import LoaderStream, Pair, draw_pairs
from jboat.trainers.trainer_state import StopReason
from jboat.trajectory import Trajectory
import jittor as jt

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer


class FitLoop:
    """One call of ``fit``.

    Args:
        trainer: what is trained.
        ll_loader: lower batches.
        ul_loader: upper batches.
        val_loader: batches to evaluate, or None.
        val_every: evaluate every so many outer steps; None for the end of every epoch.
    """

    def __init__(
        self, trainer: BilevelTrainer, ll_loader: Any, ul_loader: Any, val_loader: Any, val_every: int | None
    ) -> None:
        self._trainer = trainer
        self._state = trainer.state
        self._ll_stream = LoaderStream(ll_loader, "ll_loader")
        self._ul_stream = LoaderStream(ul_loader, "ul_loader")
        self._val_loader = val_loader
        self._val_every = val_every

    def run(self, *, max_epochs: int | None, max_steps: int | None, max_time: float | None) -> None:
        """Train until a limit is reached or a callback asks to stop."""
        trainer, state = self._trainer, self._state
        state.stop_reason = None
        state.max_steps = None if max_steps is None else state.step + max_steps
        state.max_epochs = None if max_epochs is None else state.epoch + max_epochs
        try:
            self._call("setup")
            self._begin()
            self._call("on_fit_start")
            begun = time.perf_counter()
            while state.stop_reason is None:
                self._epoch(begun, max_time)
            self._call("on_fit_end")
        except BaseException as error:
            trainer.callbacks.call_all("on_exception", trainer, state, error)
            raise
        finally:
            trainer.callbacks.call_all("teardown", trainer, state)

    def _begin(self) -> None:
        trainer = self._trainer
        if trainer.random_seed is None and trainer.seed is not None:
            seeding.seed_everything(trainer.seed)
        if trainer.initialization is None:
            trainer.initialization = functional.detached(trainer.ll_var)
            jt.sync(trainer.initialization)
        self._objectives_checked = False

    def _call(self, hook: str, *extra: Any) -> None:
        self._trainer.callbacks.call(hook, self._trainer, self._state, *extra)

    def _epoch(self, begun: float, max_time: float | None) -> None:
        state = self._state
        self._call("on_epoch_start")
        self._ll_stream.wrapped = False
        over = False
        while not over and state.stop_reason is None:
            pairs = self._draw()
            if pairs is None:
                over = True
                break
            self._outer_step(pairs)
            state.elapsed = time.perf_counter() - begun
            if state.max_steps is not None and state.step >= state.max_steps:
                state.request_stop(StopReason.MAX_STEPS)
            if max_time is not None and state.elapsed >= max_time:
                state.request_stop(StopReason.MAX_TIME)
            self._call("on_step_end")
            if self._val_every is not None and state.step % self._val_every == 0:
                self._validate()
            over = self._ll_stream.wrapped or (state.stop_reason is not None and self._ll_stream.at_end)
        if over:
            state.epoch += 1
            if self._val_loader is not None and self._val_every is None:
                self._validate()
            self._call("on_epoch_end")
            if state.max_epochs is not None and state.epoch >= state.max_epochs:
                state.request_stop(StopReason.MAX_EPOCHS)

    def _draw(self) -> list[Pair] | None:
        trainer = self._trainer
        pairs = draw_pairs(
            self._ll_stream,
            self._ul_stream,
            pairs=trainer.accumulate,
            lower_steps=trainer.lower_iters,
            fresh=trainer.lower_batches == "fresh",
        )
        if pairs is not None and not self._objectives_checked:
            trainer.check_objectives(pairs[0])
            self._objectives_checked = True
        return pairs

    def _outer_step(self, pairs: list[Pair]) -> None:
        trainer, state = self._trainer, self._state
        state.inner_step = 0
        self._call("on_step_start")
        begun = time.perf_counter()
        events = Events(self._call, self._on_lower_step if trainer.callbacks.listens("on_lower_step_end") else None)
        result = mean([trainer.run_pass(pair, events, task) for task, pair in enumerate(pairs)])
        self._call("on_before_upper_step", result)
        require_finite_hypergradient(trainer.problem, result, state.step + 1)
        update_begun = time.perf_counter()
        step_metrics = {
            "ll_loss": result.lower_loss,
            "ul_loss": result.upper_loss,
            "hypergradient_norm": result.norm,
            "ll_lr": trainer.rule.learning_rates()[0],
            "ul_lr": _learning_rate(trainer.ul_optimizer),
            **result.diagnostics,
        }
        self._update(result)
        state.step += 1
        now = time.perf_counter()
        step_metrics["time_lower"] = events.seconds["lower"]
        step_metrics["time_hypergradient"] = events.seconds["hypergradient"]
        step_metrics["time_update"] = now - update_begun
        step_metrics["time_step"] = now - begun
        state.metrics = {**state.validation, **step_metrics}
        trainer.history.append(state.step, state.epoch, step_metrics)

    def _on_lower_step(self, inner_step: int, trajectory: Trajectory) -> None:
        self._state.inner_step = inner_step
        self._call("on_lower_step_end")

    def _update(self, result: HyperGradientResult) -> None:
        trainer = self._trainer
        for variable, value in zip(trainer.ll_var, result.ll_parameters, strict=True):
            variable.update(value.detach())
        if trainer.ll_optimizer_state == "carry" and result.ll_state is not None:
            trainer.rule.store(result.ll_state)
        if result.ll_init_gradient is not None and trainer.initialization is not None:
            rate = registry.options(trainer.solver_config, "DI").lr
            moved = functional.axpy(-rate, result.ll_init_gradient, trainer.initialization)
            trainer.initialization = functional.detached(moved)
            jt.sync(trainer.initialization)
        upper_step(trainer.ul_optimizer, trainer.ul_var, result.gradients)
        jt.sync(trainer.ll_var)

    def _validate(self) -> None:
        trainer, state = self._trainer, self._state
        self._call("on_evaluate_start")
        means = trainer.evaluate(self._val_loader)
        state.validation = {f"val_{name}": value for name, value in means.items()}
        state.metrics = {**state.metrics, **state.validation}
        trainer.history.rows[-1].update(state.validation)
        self._call("on_evaluate_end")


def upper_step(optimizer: jt.optim.Optimizer, variables: list[jt.Var], gradients: list[jt.Var]) -> None:
    """One step of the user's optimizer with these gradients.

    Jittor's optimizers take gradients from a loss alone; the loss ``<x, g>`` has the gradient g.
    """
    optimizer.step(functional.dot(variables, functional.detached(gradients)))
    kept = [
        v for group in optimizer.param_groups for values in group.values() if isinstance(values, list) for v in values
    ]
    jt.sync([v for v in kept if isinstance(v, jt.Var)])


def _learning_rate(optimizer: jt.optim.Optimizer) -> float:
    return float(optimizer.param_groups[0].get("lr", optimizer.lr))
