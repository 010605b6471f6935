"""What the steps of the GPU check showed, kept in a file and written as Markdown after every step."""

from __future__ import annotations

from collections.abc import Sequence
import contextlib
import json
import os
from pathlib import Path
import re
from typing import Any, NamedTuple

from comparison_table import table

TAIL = 20  # lines of the log of a step that failed
WIDTH = 160  # characters of a last line
_KEPT = "steps.json"
_TEST = re.compile(r"::\S.* (PASSED|FAILED|ERROR|SKIPPED)\b")


class Record(NamedTuple):
    """How a step went: its name, how it ended, how long it took, when it began, and what its log ends with."""

    name: str
    result: str
    seconds: float
    begun: str
    last: str


class StepTable:
    """The records of all steps of one machine, in the folder of their logs.

    Args:
        folder: holds the logs, ``NAME.log``, and what the steps write.
        path: the Markdown file.
        heading: what the machine is; records of another one are forgotten.
        order: the names of all steps.
    """

    def __init__(self, folder: Path, path: Path, heading: Sequence[str], order: Sequence[str]) -> None:
        self._folder = folder
        self._path = path
        self._heading = list(heading)
        self._order = list(order)
        self._records: dict[str, Record] = {}
        kept = _read(folder / _KEPT)
        if isinstance(kept, dict) and kept.get("heading") == self._heading:
            self._records = {fields[0]: Record(*fields) for fields in kept["records"]}

    def put(self, record: Record) -> None:
        """Replace the record of a step, and write everything."""
        self._records[record.name] = record
        kept = {"heading": self._heading, "records": [self._records[name] for name in self._names()]}
        write(self._folder / _KEPT, json.dumps(kept, indent=1) + "\n")
        write(self._path, self.text())

    def log(self, name: str) -> Path:
        """The file that a step's output goes to."""
        return self._folder / f"{name}.log"

    def text(self) -> str:
        """All of it in Markdown."""
        records = [self._records[name] for name in self._names()]
        lines = [*self._heading, ""]
        lines += ["| step | result | seconds | begun | last line |", "| --- | --- | --- | --- | --- |"]
        for r in records:
            lines.append(f"| {r.name} | {r.result} | {r.seconds:.0f} | {r.begun} | {_cell(r.last)} |")
        lines += _tour(self._folder / "tour.jsonl")
        cells = [cell for r in records for cell in _read(self._folder / f"{r.name}.json") or []]
        if cells:
            lines += ["", "## Beside other libraries", "", table(cells)]
        for r in records:
            if r.result.startswith(("failed", "ended", "stopped", "did not")):
                lines += ["", f"## {r.name}: {r.result}", "", "```", *_tail(self.log(r.name)), "```"]
        return "\n".join(lines) + "\n"

    def _names(self) -> list[str]:
        return [name for name in self._order if name in self._records]


def last_line(log: str) -> str:
    """What a log ends with; of a test run how many tests ended how, which the last line does not tell when stopped."""
    found = [match[1] for match in _TEST.finditer(log)]
    if found:
        return ", ".join(f"{found.count(word)} {word.lower()}" for word in dict.fromkeys(sorted(found)))
    lines = [line for line in log.splitlines() if line.strip() and not line.startswith(("$ ", "# "))]
    return lines[-1].strip() if lines else ""


def tour_table(rows: Sequence[dict[str, Any]]) -> str:
    """The operations in Markdown: how far off each is, or why it failed.

    Args:
        rows: of :func:`tour_rows`, without the heading.
    """
    lines = ["| operation | as | value | first derivative | second derivative | seconds |", "| --- " * 6 + "|"]
    for row in rows:
        results = " | ".join(_cell(row.get(order, "")) for order in ("value", "first", "second"))
        lines.append(f"| {row['operation']} | {row['form']} | {results} | {row.get('seconds', 0.0):.1f} |")
    return "\n".join(lines)


def tour_rows(path: Path) -> list[dict[str, Any]]:
    """The heading of a tour, and the newest row of every operation and form; nothing where it has not begun."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):  # of a process that was killed
            rows.append(json.loads(line))
    return [*rows[:1], *{(row["operation"], row["form"]): row for row in rows[1:]}.values()]


def write(path: Path, text: str) -> None:
    """Replace a file, which is never seen half written."""
    new = path.with_name(f".{path.name}.new")
    with new.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _tour(path: Path) -> list[str]:
    rows = tour_rows(path)
    return ["", "## Operations", "", rows[0]["heading"], "", tour_table(rows[1:])] if rows else []


def _cell(text: str) -> str:
    return text.replace("|", "/")[:WIDTH]


def _tail(log: Path) -> list[str]:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return [line[:WIDTH] for line in lines if line.strip()][-TAIL:]


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
