"""Every operation on CUDA beside the CPU: value, first and second derivative, as jboat runs it and as Jittor has it.

Operations run in a process of their own, one after the other; where one ends it, or leaves a GPU behind that computes
nothing any more, another process goes on after it. Rows are written one by one to tour.jsonl. Ends with 1 where an
operation is wrong as jboat runs it; what Jittor's own gets wrong is shown alone.

On a machine without a GPU, ``--device cpu`` compares the CPU with itself: what jboat puts in place of Jittor's
functions with these, or, by ``--reference differences``, derivatives with central differences.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import json
import os
from pathlib import Path
import signal
import sys
import time
from types import FrameType
from typing import Any

from limited_command import Outcome, run
from step_table import tour_rows, tour_table

HERE = Path(__file__).parent
UNHEALTHY = 75  # the status of a process that asks for another one to go on after it
TOGETHER = 6  # operations whose kernels are compiled at once
NO_LIMIT = 1e9  # seconds
LOG = "operations.log"
LINES = 20  # of it where nothing starts


def tour(worker: list[str], rows: Path, patience: float) -> bool:
    """Let ``worker`` write rows until all are there; whether that came about.

    Args:
        worker: the command, which also takes ``--done OPERATION/FORM ...`` and ``--alone COUNT``.
        rows: the file that it writes; its output goes to ``operations.log`` beside it.
        patience: seconds without a row after which it is stopped.
    """
    log = rows.with_name(LOG)
    for file in (rows, log):
        file.unlink(missing_ok=True)
    alone = 0
    while True:
        before = tour_rows(rows)
        done = [f"{row['operation']}/{row['form']}" for row in before[1:]]
        if before and set(before[0]["jobs"]) <= set(done):
            return True
        command = [*worker, "--alone", str(alone), "--done", *done]
        outcome = run(
            command, log, NO_LIMIT, environment=os.environ, folder=rows.parent, stands_still=_watch(rows, patience)
        )
        after = tour_rows(rows)
        begun = [row for row in after[1:] if row.get("value") == "begun"]
        if begun:
            _blame(rows, begun[0], outcome)
        elif outcome.result == f"failed ({UNHEALTHY})":
            alone = 0
        elif not after or (alone and len(after) == len(before)):
            return False  # it does not even start
        else:
            alone = TOGETHER  # it ended while it compiled several operations, and one of them is to blame


def _blame(rows: Path, row: dict[str, Any], outcome: Outcome) -> None:
    with rows.open("a") as file:
        file.write(json.dumps({**row, "value": f"**the process {outcome.result}**", "right": False}) + "\n")


def _watch(rows: Path, patience: float) -> Callable[[], bool]:
    """A function that tells whether nothing has been written for so long."""
    seen: list[float] = [0.0, time.monotonic()]

    def stands_still() -> bool:
        size = float(rows.stat().st_size) if rows.exists() else 0.0
        if size != seen[0]:
            seen[:] = [size, time.monotonic()]
        return time.monotonic() - seen[1] > patience

    return stands_still


def main() -> int:
    """Make the tour and print its table; returns 0 if everything is right as jboat runs it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--reference", default="cpu", choices=["cpu", "differences"])
    parser.add_argument("--only", nargs="+", default=[], metavar="OPERATION", help="names in operation_probes.py")
    parser.add_argument("--patience", type=float, default=120.0, help="seconds for an operation (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "gpu", help="folder (default: %(default)s)")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    rows = args.output.resolve() / "tour.jsonl"
    signal.signal(signal.SIGTERM, _end)
    worker = [sys.executable, str(HERE / "operation_check.py"), "--rows", str(rows), "--device", args.device]
    worker += ["--reference", args.reference, *(["--only", *args.only] if args.only else [])]
    complete = tour(worker, rows, args.patience)
    if not complete:
        print(*rows.with_name(LOG).read_text(errors="replace").splitlines()[-LINES:], sep="\n")
    found = tour_rows(rows)[1:]
    print(tour_table(found))
    wrong = [row["operation"] for row in found if row["form"] == "jboat" and not row.get("right")]
    by_jittor = [row["operation"] for row in found if row["form"] == "Jittor" and not row.get("right")]
    print(f"{len(found)} checked{'' if complete else ', then no more'}; Jittor's own wrong: {', '.join(by_jittor)}")
    print(f"as jboat runs them wrong: {', '.join(wrong) or 'none'}")
    return int(bool(wrong) or not complete)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
