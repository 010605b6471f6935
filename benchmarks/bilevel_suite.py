"""jboat's methods on the field's own benchmark, beside five of them by hand in numpy.

The problems, the measures and the batches of 64 are those of the public suite ``benchmark_bilevel`` (Dagreou, Ablin,
Vaiter and Moreau, NeurIPS 2022; see ``suite/numpy_problems.py``). Data is generated, or scikit-learn's digits, unless
``--data`` names a file: ijcnn1 or covtype as LIBSVM has them, or a folder with MNIST's IDX files. Every method tries
the same step sizes on one seed, takes the best, and runs once a seed. Results go to ``results/bilevel_suite.json``, the
page to ``docs/bilevel-suite.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import functools
import itertools
import json
import math
from pathlib import Path
import platform
import sys
import time
from typing import Any

import jboat  # noqa: F401  (before what imports Jittor)

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "suite"))

from jboat_methods import METHODS  # noqa: E402  (these lie in the folder above)
from methods_by_hand import BY_HAND  # noqa: E402
from numpy_problems import PROBLEMS, Problem  # noqa: E402
from runs import BATCH, Batches, Mark, Seconds, by_hand, by_jboat, make_batches  # noqa: E402
from suite_page import median_of, write  # noqa: E402

GRID = (0.1, 1.0)
CLOCKS: dict[str, Seconds] = {"wall": time.perf_counter, "processor": time.process_time}
Run = Callable[[Problem, Batches, tuple[float, float], float], list[Mark]]


def contestants(methods: list[str], seconds: Seconds) -> dict[str, Run]:
    """What runs, by name: jboat's methods, and those that there are by hand.

    Args:
        methods: names of jboat's.
        seconds: what tells the time.
    """
    runs: dict[str, Run] = {}
    for method in methods:
        runs[method] = functools.partial(_run, by_jboat, method, seconds)
        if method in BY_HAND:
            runs[f"{method} numpy"] = functools.partial(_run, by_hand, method, seconds)
    return runs


def _run(
    kind: Callable[..., list[Mark]],
    method: str,
    seconds: Seconds,
    problem: Problem,
    of: Batches,
    rates: tuple[float, float],
    limit: float,
) -> list[Mark]:
    return kind(problem, method, of, rates, limit, seconds)


def best_rates(run: Run, problem: Problem, of: Batches, limit: float) -> tuple[float, float]:
    """The step sizes of the grid with the smallest F at the lower solution in the end."""
    found: dict[tuple[float, float], float] = {}
    for y, x in itertools.product(GRID, GRID):
        rates = y * problem.rates[0], x * problem.rates[1]
        marks = run(problem, of, rates, limit)
        found[rates] = _finite(problem.measures(marks[-1].x, marks[-1].y)["value"]) if _sound(marks) else math.inf
    return min(found, key=lambda rates: found[rates])


def row_of(run: Run, name: str, problem: Problem, seeds: int, limit: float) -> dict[str, Any]:
    """What a method came to: medians over the seeds at each mark."""
    rates = best_rates(run, problem, make_batches(problem, 0), limit / 2)
    runs = [run(problem, make_batches(problem, seed), rates, limit) for seed in range(seeds)]
    columns: dict[str, list[list[float]]] = {}
    for marks in runs:
        measures = [
            {"seconds": m.seconds, "steps": m.steps, **problem.measures(m.x, m.y)} for m in marks if _sound([m])
        ]
        for key in measures[0] if measures else ():
            columns.setdefault(key, []).append([m[key] for m in measures])
    return {"method": name, "rates": rates, **{key: median_of(values) for key, values in columns.items()}}


def _sound(marks: list[Mark]) -> bool:
    return bool(marks) and all(math.isfinite(abs(m.x).sum() + abs(m.y).sum()) for m in marks)


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def main() -> None:
    """Measure, and write results and page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--limit", type=float, default=10.0, help="seconds of steps a run")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="processor seconds where others compute too")
    parser.add_argument("--samples", type=int, help="of generated data, instead of as many as the files have")
    parser.add_argument("--data", nargs="*", default=[], metavar="PROBLEM=PATH", help="files instead of generated data")
    parser.add_argument("--missing", default="", help="a sentence on what was left out, for the page")
    args = parser.parse_args()
    paths = dict(item.split("=", 1) for item in args.data)
    told = {
        **{"batch": BATCH, "limit": args.limit, "seeds": args.seeds, "missing": args.missing, "clock": args.clock},
        **{"grid": " and ".join(f"{g:g}" for g in GRID), "machine": f"{platform.machine()}, {platform.system()}"},
    }
    results: dict[str, Any] = {"told": told, "problems": {}}
    for name in args.problems:
        chosen: dict[str, Any] = {}
        if name in paths:
            chosen["data"] = Path(paths[name])
        elif args.samples and name in ("logistic", "softmax"):
            chosen["samples"] = args.samples
        problem = PROBLEMS[name](0, **chosen)
        results["problems"][name] = []
        for method, run in contestants(args.methods, CLOCKS[args.clock]).items():
            row = row_of(run, method, problem, args.seeds, args.limit)
            if "seconds" not in row:
                print(f"{name}: {method} diverged with every step size")
                continue
            results["problems"][name].append(row)
            print(f"{name}: {method} {row['value'][-1]:.4f} after {row['steps'][-1]:.0f} steps", flush=True)
        (HERE / "results" / "bilevel_suite.json").write_text(json.dumps(results, indent=1) + "\n")
    docs = HERE.parent / "docs"
    write(results, docs / "bilevel-suite.md", docs / "bilevel-suite.svg")


if __name__ == "__main__":
    main()
