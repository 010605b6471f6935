"""How time and memory of an outer step grow with K, parameters, CG iterations and samples.

Logistic regression with one L2 weight per feature. Every point is measured in a process of its own, three times, in
rounds, so that a slow minute does not fall on one point; the median counts. It is the median time of some outer steps
of the trainer, and the growth of the peak resident set from before the first step.

The exponent is the slope of a line through the logarithms of the upper half of the points, both of the quantity and of
what it costs that which is more than at the first point, since that has costs that do not grow. Theory says 1 for both,
and no growth for the memory of CG.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
import resource
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "contestants"))


class Axis(NamedTuple):
    """One plot: what grows, its values, and the task at a value: samples, features, K, CG iterations (0 for RAD)."""

    label: str
    values: tuple[int, ...]
    samples: int | None
    features: int | None
    lower_iters: int | None
    iterations: int | None


AXES = {
    "lower_iters": Axis("lower steps K (RAD)", (5, 10, 20, 50, 100, 200), 500, 500, None, 0),
    "parameters": Axis("lower-level parameters (RAD, K = 5)", (10**4, 10**5, 10**6, 10**7), 50, None, 5, 0),
    "iterations": Axis("CG iterations (K = 5)", (5, 10, 20, 50, 100), 500, 500, 5, None),
    "samples": Axis("samples (RAD, K = 5)", (250, 500, 1000, 2000, 4000, 8000), None, 500, 5, 0),
}
CLASSES = 20
ROUNDS = 3
NOISE_MB = 10.0


def measure(name: str, value: int) -> dict[str, float]:
    """Time and memory of one point, in this process."""
    import benchmark_problems
    from jboat import BilevelTrainer
    from jboat.callbacks import LambdaCallback
    from jboat_trainer import make_trainer
    import jittor as jt
    from jittor_models import Problem

    axis = AXES[name]
    if axis.iterations is None:
        benchmark_problems.PENALTY = -16.0  # so ill-conditioned that CG does not end early
    iterations = axis.iterations if axis.iterations is not None else value
    features = axis.features or value // CLASSES
    p = Problem(benchmark_problems.make("l2", samples=axis.samples or value, features=features))
    ends: list[float] = []

    def tick(trainer: BilevelTrainer, state: object) -> None:
        jt.sync_all(True)
        ends.append(time.perf_counter())

    trainer = make_trainer(
        p,
        na_op=["CG"] if iterations else ["RAD"],
        lower_iters=axis.lower_iters or value,
        solver_config={"CG": {"k": iterations, "tolerance": 0.0}} if iterations else {},
        callbacks=[LambdaCallback(on_step_end=tick)],
    )
    jt.sync_all(True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    trainer.fit(*p.batches, max_steps=9, check_second_order=False)
    times = [b - a for a, b in itertools.pairwise(ends[1:])]
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"ms": 1000 * statistics.median(times), "mb": growth}


def exponent(values: tuple[int, ...], rows: dict[str, list[float]], key: str) -> str:
    """The slope of the logarithms over the upper half of the points, in words."""
    import numpy as np

    numbers = np.array(rows[key]) - rows[key][0]
    if key == "mb" and numbers.max() < NOISE_MB:
        return "no growth"
    half = len(values) // 2
    grown = np.log(np.array(values[half:]) - values[0])
    slope = np.polyfit(grown, np.log(np.maximum(numbers[half:], 1e-3)), 1)[0]
    return f"exponent {slope:.2f}"


def draw(path: Path, results: dict[str, dict[str, list[float]]]) -> None:
    """A plot for every axis, with the exponents."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure(figsize=(13, 3.6), layout="constrained")
    for axes, (name, rows) in zip(figure.subplots(1, len(results)), results.items(), strict=True):
        values = AXES[name].values
        for key, unit, marker in (("ms", "ms", "o"), ("mb", "MB", "s")):
            axes.loglog(values, rows[key], marker=marker, label=f"{unit}, {exponent(values, rows, key)}")
        axes.set(xlabel=AXES[name].label)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3, which="both")
        axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print, and write benchmarks/results/scaling.json and docs/scaling.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one[0], int(args.one[1]))))
        return
    results: dict[str, dict[str, list[float]]] = {}
    for name, axis in AXES.items():
        found: list[dict[str, float]] = []
        for value in axis.values * ROUNDS:
            command = [sys.executable, __file__, "--one", name, str(value)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
        points = [found[i :: len(axis.values)] for i in range(len(axis.values))]
        rows = {key: [statistics.median(run[key] for run in point) for point in points] for key in ("ms", "mb")}
        results[name] = rows
        slopes = ", ".join(f"{key} {exponent(axis.values, rows, key)}" for key in rows)
        print(
            f"{axis.label}: {axis.values}", *(f"  {key}: {[round(n, 1) for n in rows[key]]}" for key in rows), sep="\n"
        )
        print(f"  {slopes}", flush=True)
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "scaling.json").write_text(json.dumps(results, indent=1) + "\n")
    draw(HERE.parent / "docs" / "scaling.png", results)


if __name__ == "__main__":
    main()
