"""The record of a run, one row a logged step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import csv
import json
import os
from pathlib import Path
from typing import Any, overload

from jboat.trainers import history_picture
from jboat.trainers.persistence.atomic_file import atomic_file
import numpy as np


class History:
    """What was logged, in memory: ``history["ul_loss"]`` is a list, ``history[-1]`` the last row.

    Attributes:
        rows: one dict a logged step: ``step``, ``epoch`` and the metrics.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def append(self, step: int, epoch: int, metrics: dict[str, float]) -> None:
        """Add the row of one step."""
        self.rows.append({"step": step, "epoch": epoch, **metrics})

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, float]]:
        return iter(self.rows)

    @overload
    def __getitem__(self, name: str) -> list[float]: ...

    @overload
    def __getitem__(self, name: int) -> dict[str, float]: ...

    def __getitem__(self, name: str | int) -> list[float] | dict[str, float]:
        """One metric at every step that has it, by its name, or a step's row, by its place.

        Raises:
            KeyError: if no row has the metric.
            IndexError: if there are fewer rows.
        """
        if not isinstance(name, str):
            return self.rows[name]
        values = [row[name] for row in self.rows if name in row]
        if not values:
            raise KeyError(f"no metric {name!r}; there are {', '.join(self.names())}")
        return values

    def names(self) -> list[str]:
        """The names of all columns, in the order of their first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def state_dict(self) -> dict[str, Any]:
        """The rows as two arrays a column: its values, and which rows have one."""
        columns = {}
        for name in self.names():
            there = np.array([name in row for row in self.rows])
            columns[name] = {"there": there, "values": np.array([row.get(name, 0.0) for row in self.rows], np.float64)}
        return {"rows": len(self.rows), "columns": columns}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave.

        Raises:
            KeyError: if something is missing.
            ValueError: if the columns differ in length, or are no columns.
        """
        if set(state) != {"rows", "columns"}:
            raise ValueError("history must hold rows and columns alone")
        length, columns = state["rows"], state["columns"]
        if type(length) is not int or length < 0 or not isinstance(columns, dict):
            raise ValueError("history must have a number of rows and columns")
        if length and not {"step", "epoch"} <= set(columns):
            raise ValueError("history must have the columns step and epoch")
        for name, column in columns.items():  # no row is made before there is a number for it
            _require_column(name, column["there"], column["values"], length)
        rows: list[dict[str, float]] = [{} for _ in range(length)]
        for name, column in columns.items():
            for row, there, value in zip(rows, column["there"], column["values"], strict=True):
                if there:
                    row[name] = int(value) if name in ("step", "epoch") else float(value)
        self.rows = rows

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write one line a row; an absent metric is an empty cell."""
        with atomic_file(path) as file:
            writer = csv.DictWriter(file, self.names())
            writer.writeheader()
            writer.writerows(self.rows)
        return Path(path)

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Write a list with one object a row."""
        with atomic_file(path) as file:
            json.dump(self.rows, file, indent=1)
        return Path(path)

    def plot(self, path: str | os.PathLike[str], metrics: Sequence[str] | None = None) -> Path:
        """Draw metrics against the outer step and save the picture.

        Each has a panel, in several rows where there are many; ``val_...`` lies over the metric that it evaluates.

        Args:
            path: the picture; its ending chooses the format.
            metrics: which to draw; by default the losses, the hypergradient's norm and those of the evaluation.

        Raises:
            ImportError: without matplotlib, which the extra ``jboat-trainer[plot]`` installs.
            KeyError: if no row has a metric.
        """
        names = history_picture.chosen(self.names()) if metrics is None else list(metrics)
        for name in names:
            self[name]
        return history_picture.draw(self.rows, names, path)


def _require_column(name: str, there: Any, values: Any, length: int) -> None:
    """Require a column of so many rows.

    Raises:
        ValueError: if it is none.
    """
    for part, dtype in ((there, np.bool_), (values, np.float64)):
        if not isinstance(part, np.ndarray) or part.dtype != dtype or part.shape != (length,):
            raise ValueError(f"history column {name!r} must have {length} rows of {dtype.__name__}")
    whole = name in ("step", "epoch")
    if whole and not (there.all() and (values >= 0).all() and (values <= 2**53).all() and (values % 1 == 0).all()):
        raise ValueError(f"history column {name!r} must hold counts")
