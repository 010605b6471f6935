"""The numbers of an outer step, into which anybody may write at any time without a number being lost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from jboat.trainers.metric_value import metric_value


class StepMetrics(dict[str, Any]):
    """What ``state.metrics`` is while ``fit`` runs.

    Before a step's own numbers are there, what is written waits for them; after the step has its row in the history, it
    joins the row.

    Attributes:
        written: the names that were written since this was made.
        logged: the names that ``trainer.log`` has given, which nobody else may write.
        row: the step's row in the history, once there is one.
    """

    def __init__(self, numbers: Mapping[str, Any], logged: Iterable[str] = ()) -> None:
        super().__init__(numbers)
        self.written: set[str] = set()
        self.logged = set(logged)
        self.row: dict[str, float] | None = None

    def __setitem__(self, name: str, value: Any) -> None:
        """Write a number.

        Raises:
            TypeError: late, if it is none; earlier, that is looked at when the row is written.
            ValueError: if ``trainer.log`` has given the name.
        """
        if name in self.logged:
            raise ValueError(
                f"the metric {name!r} is logged by trainer.log() and written to state.metrics as well; give one of the "
                "two another name"
            )
        if self.row is not None:
            value = self.row[name] = metric_value(name, value, "a callback, in state.metrics,")
        self.written.add(name)
        super().__setitem__(name, value)

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        """Let copies be plain dicts, which belong to no step."""
        return dict, (dict(self),)

    def update(self, *given: Any, **named: Any) -> None:
        """Write several numbers."""
        for name, value in dict(*given, **named).items():
            self[name] = value

    def setdefault(self, name: str, default: Any = None) -> Any:
        """Write a number unless there is one."""
        if name not in self:
            self[name] = default
        return self[name]

    def __ior__(self, other: Any) -> StepMetrics:  # type: ignore[override,misc]
        self.update(other)
        return self

    def log(self, name: str, value: float) -> None:
        """Write, or write again, a number of ``trainer.log``."""
        self.logged.discard(name)
        self[name] = value
        self.logged.add(name)


def with_evaluation(metrics: dict[str, Any], numbers: Mapping[str, float]) -> StepMetrics:
    """A step's numbers with those of an evaluation, which the row gets from elsewhere."""
    joined = StepMetrics({**metrics, **numbers})
    if isinstance(metrics, StepMetrics):
        joined.logged, joined.row = set(metrics.logged), metrics.row
    return joined
