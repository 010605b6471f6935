"""Metrics in a file of JSON lines."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO

from jboat.callbacks.row_logger import RowLogger


class JSONLLogger(RowLogger):
    """One JSON object an outer step: ``step``, ``epoch`` and the metrics; evaluations add to that of their step.

    A line is written when the next step starts. A run that goes on goes on in the same file, from which lines of later
    steps are removed. JSON has no NaN and no infinities: they are written as strings, ``"NaN"`` or ``"Infinity"``.

    Args:
        folder: where to write; by default the trainer's ``logger_dir``.
        name: the file.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, name: str = "metrics.jsonl") -> None:
        super().__init__(folder, name)
        self._file: IO[str] | None = None

    def open(self, path: Path, step: int) -> None:
        """See :meth:`RowLogger.open`."""
        lines = path.read_text(encoding="utf-8").splitlines() if step > 0 and path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        self._file = path.open("w", encoding="utf-8")
        self._file.writelines(f"{line}\n" for line in kept)

    def write(self, row: dict[str, float]) -> None:
        """See :meth:`RowLogger.write`."""
        if self._file is not None:
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
