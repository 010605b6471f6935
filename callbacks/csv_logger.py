"""Metrics in a CSV file."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import IO

from jboat.callbacks.row_logger import RowLogger


class CSVLogger(RowLogger):
    """One line an outer step: ``step``, ``epoch`` and the metrics; evaluations fill the line of their step.

    A line is written when the next step starts. A run that goes on, by another ``fit`` or from a checkpoint, goes on in
    the same file, from which lines of later steps are removed.

    Args:
        folder: where to write; by default the trainer's ``logger_dir``.
        name: the file.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, name: str = "metrics.csv") -> None:
        super().__init__(folder, name)
        self._file: IO[str] | None = None
        self._columns: list[str] = []
        self._known: set[str] = set()

    def open(self, path: Path, step: int) -> None:
        """See :meth:`RowLogger.open`."""
        lines: list[dict[str, str]] = []
        self._columns, self._known = [], set()
        if step > 0 and path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                self._columns = list(reader.fieldnames or [])
                self._known = set(self._columns)
                lines = [line for line in reader if int(line["step"] or 0) <= step]
        self._file = path.open("w+", newline="", encoding="utf-8")
        self._rewrite(self._file, lines)

    def write(self, row: dict[str, float]) -> None:
        """See :meth:`RowLogger.write`."""
        if self._file is None:
            return
        if not row.keys() <= self._known:
            new = [name for name in row if name not in self._known]
            self._file.seek(0)
            lines = list(csv.DictReader(self._file))
            self._columns += new
            self._known = set(self._columns)
            self._rewrite(self._file, lines)
        self._file.write(",".join([repr(row[name]) if name in row else "" for name in self._columns]) + "\r\n")
        self._file.flush()

    def close(self) -> None:
        """See :meth:`RowLogger.close`."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _rewrite(self, file: IO[str], lines: list[dict[str, str]]) -> None:
        """Write the whole file, with more columns; the cells of earlier lines stay empty."""
        file.seek(0)
        if self._columns:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(lines)
        file.truncate()
