"""What ``trainer.log`` is given: averaged over the calls of an outer step, or of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import logging
import types
from typing import TYPE_CHECKING, Any, TypeAlias

from jboat.backend import batch_statistics
from jboat.backend.stacked.array import Stacked
from jboat.trainers.evaluation import over_ranks
from jboat.trainers.metric_value import metric_value
from jboat.trainers.step_metrics import StepMetrics
from jboat.trial_calls import are_on_trial
import jittor as jt

if TYPE_CHECKING:
    from jboat.trainers.trainer_state import TrainerState

logger = logging.getLogger("jboat")

RESERVED = ("step", "epoch", "ll_loss", "ul_loss", "hypergradient_norm", "ll_lr", "ul_lr")
_PREFIXES = {"time_": "times", "share_": "shares of time", "val_": "evaluations"}
_SOURCE = "trainer.log()"

Logged: TypeAlias = tuple[Any, float]
"""A number or Var, and what it counts for: in an objective the samples of its rank."""


class LoggedValues:
    """The numbers of the step under way, and of evaluations within or outside of it.

    Vars are kept as they are, without a history, and fetched all at once when the step ends.

    Args:
        state: whose metrics they join.
    """

    def __init__(self, state: TrainerState) -> None:
        self._state = state
        self._values: dict[str, list[Logged]] = {}
        self._evaluations: list[dict[str, list[Logged]]] = []
        self._open = False
        self._fitting = False
        self._warned = False

    def begin_fit(self) -> None:
        """Forget what a ``fit`` that failed has left."""
        self._fitting, self._open, self._values = True, False, {}

    def go_on(self, rows: Sequence[dict[str, float]]) -> None:
        """Take up a run that stands behind a finished step, whose row is the last one."""
        self._open = False
        metrics = self._state.metrics = StepMetrics(self._state.metrics)
        metrics.row = rows[-1] if rows else None

    def end_fit(self) -> None:
        """Take no more."""
        self._fitting, self._open = False, False

    def begin_step(self) -> None:
        """Let what follows belong to the next outer step; done twice, it is the same."""
        if not self._open:
            self._open, self._values = True, {}
            self._state.metrics = StepMetrics(self._state.metrics)

    def end_step(self, step_metrics: Mapping[str, float]) -> StepMetrics:
        """The step's metrics: the trainer's own, what was written to ``state.metrics``, and what was logged.

        Args:
            step_metrics: the trainer's own.

        Raises:
            ValueError: if a name was given twice.
        """
        self._open = False
        before = self._state.metrics
        names = before.written if isinstance(before, StepMetrics) else set(before) - set(self._state.validation)
        written = {name: before[name] for name in before if name in names}
        logged = {name: total / shares for name, (total, shares) in over_ranks(_totals(self._values)).items()}
        for source, given in (("written to state.metrics", written), ("logged by trainer.log()", logged)):
            taken = sorted(given.keys() & step_metrics.keys())
            if taken:
                raise ValueError(
                    f"the metric {taken[0]!r} was {source} during the step, and is one of jboat's own; give it another "
                    "name"
                )
        twice = sorted(written.keys() & logged.keys())
        if twice:
            raise ValueError(f"the metric {twice[0]!r} was both written to state.metrics and logged by trainer.log()")
        return StepMetrics({**self._state.validation, **step_metrics, **written, **logged}, logged)

    def mark(self) -> dict[str, int]:
        """Where the step under way stands, for :meth:`back_to`."""
        return {name: len(given) for name, given in self._values.items()}

    def back_to(self, mark: Mapping[str, int]) -> None:
        """Forget what was logged since, as where what logged it is computed again in another way."""
        self._values = {name: given[: mark[name]] for name, given in self._values.items() if name in mark}

    def add(self, name: str, value: Any) -> None:
        """Take a number; see ``trainer.log``."""
        _require_free(name)
        number = _logged(name, value)
        if are_on_trial():
            return
        if self._evaluations:
            self._evaluations[-1].setdefault(name, []).append(number)
        elif self._open:
            self._values.setdefault(name, []).append(number)
        elif self._fitting:
            self._add_late(name, number)
        elif not self._warned:
            self._warned = True
            logger.warning("trainer.log(%r) is called outside of fit() and evaluate(), and goes nowhere", name)

    def _add_late(self, name: str, number: Logged) -> None:
        metrics = self._state.metrics
        if not isinstance(metrics, StepMetrics):
            metrics = self._state.metrics = StepMetrics(metrics)
        if name in metrics and name not in metrics.logged:
            raise ValueError(f"the metric {name!r} of trainer.log() is in state.metrics already; give it another name")
        self._values.setdefault(name, []).append(number)
        metrics.log(name, means({name: self._values[name]})[name])

    def of_evaluation(self, step: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """``evaluation_step`` with what is logged in it among its numbers; a name that it returns is its own."""

        def with_logged(batch: Any) -> Any:
            self._evaluations.append({})
            try:
                numbers = step(batch)
            finally:
                logged = self._evaluations.pop()
            return {**means(logged), **numbers} if logged and isinstance(numbers, Mapping) else numbers

        return with_logged


def means(values: Mapping[str, Sequence[Logged]]) -> dict[str, float]:
    """The mean of each name's numbers; all Vars are computed in one run."""
    return {name: total / shares for name, (total, shares) in _totals(values).items()}


def _totals(values: Mapping[str, Sequence[Logged]]) -> dict[str, tuple[float, float]]:
    """The sum of each name's numbers, each times its share, and the sum of the shares."""
    waiting = [v for given in values.values() for v, _ in given if isinstance(v, jt.Var)]
    if waiting:  # without any, what else is pending would be computed
        jt.sync(waiting)
    return {
        name: (sum(share * metric_value(name, v, _SOURCE) for v, share in given), sum(share for _, share in given))
        for name, given in values.items()
    }


def _require_free(name: Any) -> None:
    if not isinstance(name, str) or not name:
        raise TypeError(f"trainer.log() takes a metric's name and a number, got the name {name!r}")
    for prefix, whose in _PREFIXES.items():
        if name.startswith(prefix):
            raise ValueError(
                f"trainer.log({name!r}): names that begin with {prefix!r} are those of {whose}"
                + ("; within an evaluation leave it out, and it is put before the name" if prefix == "val_" else "")
            )
    if name in RESERVED:
        raise ValueError(f"trainer.log({name!r}): that is a metric of jboat's own; give it another name")


def _logged(name: str, value: Any) -> Logged:
    share = batch_statistics.share()
    if isinstance(value, Stacked) and value.numel() == 1:  # of each of several tasks, for which their mean counts
        return value.value.detach().mean(), share * value.tasks
    return _checked(name, value), share


def _checked(name: str, value: Any) -> Any:
    """The number, a Var without its history; nothing is fetched.

    Raises:
        TypeError: for anything else, naming the metric.
    """
    if isinstance(value, jt.Var) and value.numel() == 1:
        return value.detach()
    if isinstance(value, jt.Var):
        raise TypeError(
            f"the metric {name!r} of {_SOURCE} must be one number, got a Var of shape {list(value.shape)}; take its "
            "mean() or sum()"
        )
    return metric_value(name, value, _SOURCE)


def may_log(function: Any) -> bool:
    """Whether a function, or one that it names or holds, names something ``log``."""
    waiting, seen = [function], set()
    while waiting:
        function = waiting.pop()
        function = getattr(function, "__func__", function)
        if not isinstance(function, types.FunctionType) or function in seen:
            continue
        seen.add(function)
        names = _names(function.__code__)
        if "log" in names:
            return True
        waiting += [function.__globals__.get(name) for name in names]
        waiting += [cell.cell_contents for cell in function.__closure__ or () if cell != types.CellType()]
    return False


def _names(code: types.CodeType) -> set[str]:
    """The names that a function's code uses, and the code of those written in it."""
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return set(code.co_names).union(*inner)
