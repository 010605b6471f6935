"""Metrics in a file of JSON lines."""

from __future__ import annotations

from collections.abc import Sequence
import json
import os
from pathlib import Path
from typing import IO

from jboat.callbacks.row_logger import Row, RowLogger


class JSONLLogger(RowLogger):
    """One JSON object an outer step: ``step``, ``epoch`` and the metrics; evaluations add to that of their step.

    A run that goes on goes on in the same file, from which lines of later steps are gone. JSON
    has no NaN and no infinities: they are written as strings, ``"NaN"`` or ``"Infinity"``.

    Args:
        folder: where to write; by default the trainer's ``logger_dir``.
        name: the file.
        times: whether to write the metrics called ``time_...``.
        flush_seconds: write after so many seconds; 0 for every step, when the next one ends.

    Raises:
        ValueError: for negative seconds.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        name: str = "metrics.jsonl",
        *,
        times: bool = True,
        flush_seconds: float = 1.0,
    ) -> None:
        super().__init__(folder, name, times=times, flush_seconds=flush_seconds)
        self._file: IO[str] | None = None

    def open(self, path: Path) -> None:
        """See :meth:`RowLogger.open`."""
        self._file = path.open("w", encoding="utf-8")

    def write(self, rows: Sequence[Row]) -> None:
        """See :meth:`RowLogger.write`."""
        if self._file is not None:
            for row in rows:
                named = {name: value if abs(value) < float("inf") else _spelled(value) for name, value in row.items()}
                self._file.write(json.dumps(named, allow_nan=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        """See :meth:`RowLogger.close`."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _spelled(value: float) -> str:
    return json.dumps(value)
