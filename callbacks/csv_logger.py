"""Metrics in a CSV file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import csv
import os
from pathlib import Path
from typing import IO, Any

from jboat.callbacks.row_logger import Row, RowLogger


class CSVLogger(RowLogger):
    """One line an outer step: ``step``, ``epoch`` and the metrics; evaluations fill the line of their step.

    A run that goes on, by another ``fit`` or from a checkpoint, goes on in the same file, from which lines of later
    steps are gone.

    Args:
        folder: where to write; by default the trainer's ``logger_dir``.
        name: the file.
        times: whether to write the metrics called ``time_...``, the only ones that differ between two runs with the
            same seed.
        flush_seconds: write after so many seconds; 0 for every step, when the next one ends.

    Raises:
        ValueError: for negative seconds.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        name: str = "metrics.csv",
        *,
        times: bool = True,
        flush_seconds: float = 1.0,
    ) -> None:
        super().__init__(folder, name, times=times, flush_seconds=flush_seconds)
        self._file: IO[str] | None = None
        self._columns: list[str] = []

    def open(self, path: Path) -> None:
        """See :meth:`RowLogger.open`."""
        self._columns = []
        self._file = path.open("w+", newline="", encoding="utf-8")

    def write(self, rows: Sequence[Row]) -> None:
        """See :meth:`RowLogger.write`."""
        if self._file is None:
            return
        new = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in self._columns]
        if new:
            self._file.seek(0)
            lines = list(csv.DictReader(self._file))
            self._columns += new
            self._file.seek(0)
            csv.DictWriter(self._file, self._columns).writeheader()
            self._append(lines)
            self._file.truncate()
        self._append(rows)
        self._file.flush()

    def close(self) -> None:
        """See :meth:`RowLogger.close`."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write lines at the end; a cell that has no number stays empty."""
        if self._file is not None:
            csv.DictWriter(self._file, self._columns).writerows(rows)
