"""Evaluation on tasks: adapt on each one's support batch, measure on its query batch, and how sure the mean is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
import json
import math
from typing import Any

from jboat.backend import ranks
from jboat.trainers.data.loaders import Batch, Task, as_batch
from jboat.trainers.metric_value import metric_value

INTERVAL = "_ci95"
_QUANTILE = 1.96
Adapt = Callable[[Batch, int], AbstractContextManager[None]]


class TaskEvaluation:
    """The numbers of tasks, of which each rank measures some.

    Args:
        adapt: lets the models be adapted to a support batch inside a block, given the task's number.
        step: called with a query batch; returns numbers or one-element Vars by name.
    """

    def __init__(self, adapt: Adapt, step: Callable[[Batch], Any]) -> None:
        self._adapt = adapt
        self._step = step
        self._rows: dict[int, dict[str, float]] = {}
        self.count = 0

    def take(self, tasks: Sequence[Batch]) -> None:
        """Measure the tasks of one item of the loader.

        Raises:
            TypeError: if the step returns something other than numbers by name.
            ValueError: if one is no pair of a support and a query batch.
        """
        for task in tasks:
            if not isinstance(task, Task):
                raise ValueError(
                    "loader gave a list of single batches; evaluate takes batches, or lists of tasks, each of them a "
                    "(support, query) pair of batches, as in evaluate([[(support, query), (support, query)]])"
                )
            if self.count % ranks.size() == ranks.rank():
                self._rows[self.count] = self._measured(task)
            self.count += 1

    def means(self) -> dict[str, float]:
        """The mean of each number over the tasks and, of two or more, half the width of its 95 percent interval."""
        numbers: dict[str, list[float]] = {}
        for _, row in sorted(self._of_all_ranks().items()):
            for name, value in row.items():
                numbers.setdefault(name, []).append(value)
        found = {name: sum(values) / len(values) for name, values in numbers.items()}
        for name, values in numbers.items():
            if len(values) > 1:
                variance = sum((value - found[name]) ** 2 for value in values) / (len(values) - 1)
                found[f"{name}{INTERVAL}"] = _QUANTILE * math.sqrt(variance / len(values))
        return found

    def _measured(self, task: Task) -> dict[str, float]:
        support, query = (as_batch(task[half], "loader") for half in ("support", "query"))
        with self._adapt(support, self.count):
            numbers = self._step(query)
            if not isinstance(numbers, Mapping):
                raise TypeError(f"evaluation_step must return a dict of numbers, got {type(numbers).__name__}")
            return {name: metric_value(name, value, "an evaluation") for name, value in numbers.items()}

    def _of_all_ranks(self) -> dict[int, dict[str, float]]:
        if ranks.size() == 1:
            return self._rows
        told = json.dumps(self._rows).encode()
        rows: dict[int, dict[str, float]] = {}
        for rank in range(ranks.size()):
            rows.update({int(n): row for n, row in json.loads(ranks.broadcast_bytes(told, root=rank)).items()})
        return rows
