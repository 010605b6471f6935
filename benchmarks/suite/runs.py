"""One run of a method on a problem: how far it is at which time."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jboat import NonFiniteError, TrainerState
from jboat.callbacks import Callback
from jboat_methods import loader, make_trainer
from methods_by_hand import BY_HAND
import numpy as np
from numpy_problems import Array, Batch, Problem, batches

if TYPE_CHECKING:
    from jboat import BilevelTrainer

BATCH = 64
MARKS = 6
"""How many points of a run are kept: at the end, at half of the time, at a quarter, and so on."""
Seconds = Callable[[], float]
Batches = tuple[list[Batch], list[Batch]]


@dataclass
class Mark:
    """Where a run stands.

    Attributes:
        seconds: spent on steps so far.
        steps: taken so far.
        x: the upper variable.
        y: the lower variable.
    """

    seconds: float
    steps: int
    x: Array
    y: Array


class Clock:
    """Keeps marks of a run at given times, and stands still meanwhile.

    Args:
        limit: seconds of the run.
        seconds: what tells the time.
    """

    def __init__(self, limit: float, seconds: Seconds) -> None:
        self._seconds = seconds
        self._due = [limit / 2**k for k in reversed(range(MARKS))]
        self.marks: list[Mark] = []
        self._begun = self._seconds()

    def restart(self) -> None:
        """Begin to count."""
        self._begun = self._seconds()

    def look(self, steps: int, point: Callable[[], tuple[Array, Array]]) -> bool:
        """Keep a mark where one is due; whether the run is over."""
        now = self._seconds()
        if self._due and now - self._begun >= self._due[0]:
            seconds = now - self._begun
            while self._due and seconds >= self._due[0]:
                self._due.pop(0)
            self.marks.append(Mark(seconds, steps, *point()))
            self._begun += self._seconds() - now
        return not self._due


class _Watch(Callback):
    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def on_fit_start(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        self._clock.restart()

    def on_step_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        x, y = trainer.ul_var[0], trainer.ll_var[0]
        if self._clock.look(state.step, lambda: (x.numpy().copy(), y.numpy().copy())):
            state.request_stop()


def by_jboat(
    problem: Problem, method: str, of: Batches, rates: tuple[float, float], limit: float, seconds: Seconds
) -> list[Mark]:
    """The marks of a run of jboat's; fewer where it diverged."""
    lower, upper = (loader(level) for level in of)
    short = 2 * (len(lower) + len(upper)) if method == "SRBA" else 6
    make_trainer(problem, method, *rates).fit(lower, upper, max_steps=short)  # which compiles what is to be compiled
    clock = Clock(limit, seconds)
    with contextlib.suppress(NonFiniteError):
        make_trainer(problem, method, *rates, callbacks=(_Watch(clock),)).fit(lower, upper, max_steps=10**9)
    return clock.marks


def by_hand(
    problem: Problem, method: str, of: Batches, rates: tuple[float, float], limit: float, seconds: Seconds
) -> list[Mark]:
    """The marks of a run of numpy's, in float32 as jboat's are."""
    single = copy.copy(problem)
    single.x0, single.y0 = problem.x0.astype(np.float32), problem.y0.astype(np.float32)
    lower, upper = ([_single(batch) for batch in level] for level in of)
    clock, path, steps = Clock(limit, seconds), BY_HAND[method](single, lower, upper, *rates), 0
    clock.restart()
    with np.errstate(all="ignore"):
        while True:
            x, y = next(path)
            steps += 1
            if clock.look(steps, lambda: (x.copy(), y.copy())):  # noqa: B023  (called at once)
                return clock.marks


def make_batches(problem: Problem, seed: int) -> Batches:
    """Both levels' batches of a seed."""
    rng = np.random.default_rng(seed)
    return batches(problem.lower, BATCH, rng), batches(problem.upper, BATCH, rng)


def _single(batch: Batch) -> Batch:
    return {n: a.astype(np.float32) if a.dtype.kind == "f" else a for n, a in batch.items()}
