"""Certify models: one hypergradient by RAD and by CG beside central differences of the loop that plain Jittor runs.

Each model is a process of its own with a time limit. Rows are written one by one to certified_models.jsonl, and the
table is made anew after each, so that a run that was stopped goes on where it ended; ``--again`` starts afresh.

Networks are certified as they are, which only RAD can be, and with a smooth function in the place of ReLU: lower steps
lead back and forth over kinks for ever, so that the loop that CG's implicit derivative stands for never converges.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import json
import os
from pathlib import Path
import sys
from typing import Any

from limited_command import run

HERE = Path(__file__).resolve().parent
METHODS = ("RAD", "CG")
MEANS = "smooth, means"
HEADING = """# Certified models

One hypergradient of each model by RAD and by CG beside central differences of the lower loop that plain Jittor runs in
float64, with none of jboat's functions, along the hypergradient and along a random direction. The hypergradient is that
of training as it is, in float32, with random images of the sizes that `benchmarks/certified_models.py` names. This page
is made by `benchmarks/certify_models.py`; `benchmarks/certification.py` has the problem.

* **error**: the slopes along both directions minus the differences in the wider radius, {radius:g}, relative to the
  differences. It is float32's rounding, and for CG also what {steps} lower steps are short of convergence;
* **difference's error**: how far the differences in two radii are apart, and what rounding may add; where the row were
  wrong by these, how far they move with a start that is moved by as much as float32 rounds, which may lead over kinks;
* **right**: both are within {tolerance:g}; **wrong**: the error is more than twice the difference's; else
  **inconclusive**;
* **not tried**: lower steps of a network with kinks lead back and forth over them for ever, so that there is no
  solution for CG to differentiate.

"Own" activations are those of the model. "Smooth" stands for `x sigmoid(x)` in the place of ReLU and, in CG's columns,
for means in the place of maximum pooling, whose kinks are of the same kind. "Smooth, means" has these means for RAD
too, where kinks of maximum pooling left it inconclusive. Everything else is the same in all of them.

| model | activations | parameters | RAD: error | difference's error | | CG: error | difference's error | |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


def page(rows: list[dict[str, Any]]) -> str:
    """The page, one row a model and kind of activations, in the order of the models."""
    from certification import RADIUS, STEPS, TOLERANCE
    from certified_models import CASES

    names = list(CASES)
    lines = []
    known = [row for row in rows if row["model"] in names]
    for row in sorted(known, key=lambda row: (names.index(row["model"]), row["activations"])):
        cells = [row["model"], row["activations"]]
        if "failure" in row:
            lines.append(f"| {' | '.join(cells)} | {row['failure']} | | | | | | |\n")
            continue
        cells.append(f"{row['parameters']:,}")
        for method in METHODS:
            found = row[method]
            verdict = found["verdict"] if found["verdict"] != "wrong" else "**wrong**"
            cells += [f"{found[key]:.1e}" if key in found else "" for key in ("error", "difference_error")]
            cells.append(verdict)
        lines.append(f"| {' | '.join(cells)} |\n".replace("|  |", "| |"))
    absent = [name for name in CASES if name not in {row["model"] for row in rows}]
    end = f"\nNot run: {', '.join(absent)}.\n" if absent else ""
    return HEADING.format(radius=RADIUS, tolerance=TOLERANCE, steps=STEPS["CG"]) + "".join(lines) + end


def read(path: Path) -> list[dict[str, Any]]:
    """The rows written so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _one(name: str, activations: str, rows: Path) -> None:
    from certification import NoPullError, certify
    from certified_models import CASES

    try:
        found = certify(CASES[name], smooth_activations=activations != "own", rad_without_kinks=activations == MEANS)
    except NoPullError as error:
        found = {"failure": str(error)}
    _append(rows, {"model": name, "activations": activations, **found})


def _append(rows: Path, row: dict[str, Any]) -> None:
    with rows.open("a") as file:
        file.write(json.dumps(row) + "\n")


def _kinks_remain(row: dict[str, Any]) -> bool:
    return "RAD" in row and row["RAD"]["verdict"] == "inconclusive"


def _is_wrong(row: dict[str, Any]) -> bool:
    return "failure" in row or any(row[method]["verdict"] == "wrong" for method in METHODS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing; 1 if a hypergradient is wrong or a model has failed."""
    from certified_models import CASES, ZOO

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=CASES, default=list(CASES), metavar="MODEL", help="names of models"
    )
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds for a model (default: %(default)s)")
    parser.add_argument("--again", action="store_true", help="forget the rows of the models that are run")
    parser.add_argument(
        "--rows", type=Path, default=HERE / "results" / "certified_models.jsonl", help="file of the rows"
    )
    parser.add_argument("--page", type=Path, default=HERE.parent / "docs" / "certified-models.md", help="the page")
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "ACTIVATIONS"), help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.one:
        _one(*args.one, args.rows)
        return 0
    if args.again:
        kept = [row for row in read(args.rows) if row["model"] not in args.only]
        args.rows.write_text("".join(json.dumps(row) + "\n" for row in kept))
    for name in args.only:
        for activations in ("own", "smooth", MEANS) if name in ZOO else ("own",):
            done = {row["activations"]: row for row in read(args.rows) if row["model"] == name}
            if activations in done or (activations == MEANS and not _kinks_remain(done["smooth"])):
                continue
            command = [sys.executable, __file__, "--one", name, activations, "--rows", str(args.rows)]
            log = args.rows.with_suffix(".log")
            outcome = run(command, log, args.limit, environment=os.environ, folder=HERE)
            if not outcome.passed:
                _append(args.rows, {"model": name, "activations": activations, "failure": outcome.result})
            args.page.write_text(page(read(args.rows)))
            print(name, activations, read(args.rows)[-1], flush=True)
    args.page.write_text(page(read(args.rows)))
    rows = [row for row in read(args.rows) if row["model"] in args.only]
    failed = any(_is_wrong(row) for row in rows)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
