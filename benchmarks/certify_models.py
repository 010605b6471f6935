"""Certify models: one hypergradient by RAD and by CG beside central differences of the loop that plain Jittor runs.

Each model is a process of its own with a time limit. Rows are written one by one to certified_models.jsonl, and the
table is made anew after each, so that a run that was stopped goes on where it ended; ``--again`` starts afresh.

A network with many ReLUs has kinks within 1e-5 of any point, across which a gradient jumps, so that a difference of the
loop in float32 is no more accurate than they allow, however right the hypergradient is. Differences in two radii tell:
where they are further apart than the tolerance, the row is inconclusive, and the same network with a smooth function in
the place of ReLU, which has all other operations in common, is the one that counts.
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
NOT_TRIED = "not tried: with no pull do the lower steps converge"
HEADING = """# Certified models

One hypergradient of each model by RAD and by CG beside central differences of the lower loop that plain Jittor runs,
with none of its functions replaced, along the hypergradient and along a random direction; `benchmarks/certification.py`
has the problem. This page is made by `benchmarks/certify_models.py`.

* **error**: the slopes along both directions minus the differences in the wider radius, relative to the differences;
* **difference's error**: how far the differences in the two radii are apart, and what rounding may add;
* **not tried**: lower steps of a network with kinks may lead back and forth over one for ever, however strong the pull;
* **right**: both are within {tolerance:.0%}; **wrong**: the error is more than twice the difference's; else
  **inconclusive**.

Networks of many ReLUs have kinks within 1e-5 of any point, across which gradients jump, so that differences in float32
are no better than the kinks allow. The same network with `x sigmoid(x)` in the place of ReLU ("smooth") tells a wrong
hypergradient from an inaccurate difference: max pooling, normalisation and everything else are the same in both.

| model | activations | parameters | RAD: error | difference's error | | CG: error | difference's error | |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


def table(rows: list[dict[str, Any]], tolerance: float) -> str:
    """The page, one row a model and kind of activations."""
    lines = []
    for row in rows:
        cells = [row["model"], row["activations"]]
        if "failure" in row:
            lines.append(f"| {' | '.join(cells)} | {row['failure']} | | | | | | |\n")
            continue
        cells.append(f"{row['parameters']:,}")
        for method in METHODS:
            found = row[method]
            verdict = found["verdict"] if found["verdict"] != "wrong" else "**wrong**"
            cells += [f"{found['error']:.1e}", f"{found['difference_error']:.1e}", verdict]
        lines.append(f"| {' | '.join(cells)} |\n")
    from certified_models import CASES

    absent = [name for name in CASES if name not in {row["model"] for row in rows}]
    end = f"\nNot run: {', '.join(absent)}.\n" if absent else ""
    return HEADING.format(tolerance=tolerance) + "".join(lines) + end


def read(path: Path) -> list[dict[str, Any]]:
    """The rows written so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _one(name: str, activations: str, rows: Path) -> None:
    from certification import NoPullError, certify
    from certified_models import CASES

    try:
        found = certify(CASES[name], smooth_activations=activations == "smooth")
    except NoPullError:
        found = {"failure": NOT_TRIED}
    _append(rows, {"model": name, "activations": activations, **found})


def _append(rows: Path, row: dict[str, Any]) -> None:
    with rows.open("a") as file:
        file.write(json.dumps(row) + "\n")


def _is_wrong(row: dict[str, Any]) -> bool:
    if "failure" in row:
        return bool(row["failure"] != NOT_TRIED)
    return any(row[method]["verdict"] == "wrong" for method in METHODS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing; 1 if a hypergradient is wrong or a model has failed."""
    from certification import TOLERANCE
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
        for activations in ("own", "smooth") if name in ZOO else ("own",):
            if any((row["model"], row["activations"]) == (name, activations) for row in read(args.rows)):
                continue
            command = [sys.executable, __file__, "--one", name, activations, "--rows", str(args.rows)]
            log = args.rows.with_suffix(".log")
            outcome = run(command, log, args.limit, environment=os.environ, folder=HERE)
            if not outcome.passed:
                _append(args.rows, {"model": name, "activations": activations, "failure": outcome.result})
            args.page.write_text(table(read(args.rows), TOLERANCE))
            print(args.page.read_text().splitlines()[-1], flush=True)
    args.page.write_text(table(read(args.rows), TOLERANCE))
    rows = [row for row in read(args.rows) if row["model"] in args.only]
    failed = any(_is_wrong(row) for row in rows)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
