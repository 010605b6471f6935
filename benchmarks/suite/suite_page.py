"""The page and the curves of the benchmark suite, from its results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
import statistics
from typing import Any

HEAD = """# The field's benchmark

Made by `python benchmarks/bilevel_suite.py`; do not edit.

The problems are those of the public suite `benchmark_bilevel`: a quadratic whose samples have matrices of their own,
logistic regression with one penalty a feature (the form of ijcnn1), softmax regression with one penalty a class (the
form of covtype), and hyper-cleaning with a linear softmax model, half of whose labels are wrong. Every method gets the
same batches of {batch}, {limit:g} {clock} seconds of steps a run without compilation and evaluation, and the best of
the same step sizes: {grid} times the problem's own, for y and for x. The methods named `numpy` are written by hand in
`benchmarks/suite`, and run on the same arrays in the same process. Numbers are medians of {seeds} seeds.

* *value*: F at the lower solution, of all samples, by which the step sizes are chosen and rows are sorted;
* *hypergradient*: the squared norm of the true hypergradient at x, of all samples at the lower solution;
* *distance*: the squared distance of y from the lower solution;
* *calls*: gradients of one objective on one batch, and products with second derivatives of one.

A small hypergradient alone says little where penalties stand in an exponent: it vanishes as x runs off to infinity, and
the distance explodes. Step sizes are chosen by F at the exact lower solution, which does not see y: MESO has rows on
*logistic* and *softmax* with which its y diverges, to distances of 1e20 and more. The same steps by hand, in numpy
float64, diverge too; with `eta`, theta's step size, as large as y's instead of its default of 0.1 they did not in 300.

Measured on {machine}, one thread. {missing}
"""
SLOWER = """These problems have few variables and batches of 64, whose derivatives take numpy a fraction of a
millisecond. A step of jboat's that is made of one graph and the trainer's own work costs more than that whatever the
batch; the methods with lower steps start a graph for each of their parts. `benchmarks/single_loop_costs.py` has
problems that are large enough for the derivatives to count.
"""
CALLS = {
    **{"SOBA": 4, "MASOBA": 4, "SABA": 4, "SRBA": 8, "MRBO": 8, "SUSTAIN": 8, "STOCBIO": 32, "AMIGO": 32, "F2SA": 3},
    **{"RAD": 31, "CG": 22, "FD": 13, "MESO": 6, "VFO": 12, "PGDO": 12},
}
"""In one step, with ten lower steps, ten solver steps or ten terms; SRBA without its full directions, CG to the end."""


def write(results: dict[str, Any], page: Path, curves: Path) -> None:
    """Write the page, and the curves where matplotlib is installed."""
    told = results["told"]
    missing = told["missing"]
    parts = [HEAD.format(**{**told, "missing": missing})]
    if _draw(results, curves):
        parts.append(f"![The squared norm of the true hypergradient over time]({curves.name})\n")
    slower: list[str] = []
    for name, rows in results["problems"].items():
        parts.append(f"## {name}\n")
        parts.append(
            "| method | step sizes | value | hypergradient | distance | test error | steps a second | calls a second |"
        )
        parts.append("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for row in sorted(rows, key=lambda r: r["value"][-1]):
            parts.append(_line(row))
        parts.append("")
        slower += _slower(name, rows)
    parts.append("## Slower than numpy by hand\n")
    if slower:
        parts.append(SLOWER)
    parts.append("\n".join(f"* {text}" for text in slower) if slower else "None.")
    page.write_text("\n".join(parts) + "\n")


def _line(row: dict[str, Any]) -> str:
    error = row["test_error"][-1]
    rate = row["steps"][-1] / row["seconds"][-1]
    cells = [
        row["method"],
        f"{row['rates'][0]:g}, {row['rates'][1]:g}",
        f"{row['value'][-1]:.4f}",
        f"{row['hypergradient'][-1]:.1e}",
        f"{row['distance'][-1]:.1e}",
        "" if error != error else f"{error:.3f}",
        f"{rate:.0f}",
        f"{rate * CALLS[row['method'].split()[0]]:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _slower(problem: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Which of jboat's methods take fewer steps in the same time."""
    rates = {row["method"]: row["steps"][-1] / row["seconds"][-1] for row in rows}
    pairs = [(name, rates[name], rates[f"{name} numpy"]) for name in rates if f"{name} numpy" in rates]
    return [
        f"{problem}, {name}: {own:.0f} instead of {numpy:.0f} steps a second"
        for name, own, numpy in pairs
        if own < numpy
    ]


def _draw(results: dict[str, Any], path: Path) -> bool:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    problems = results["problems"]
    figure = Figure(figsize=(5.0 * len(problems), 4.2), layout="constrained")
    for number, (name, rows) in enumerate(problems.items(), 1):
        axes = figure.add_subplot(1, len(problems), number)
        for row in rows:
            style = "--" if row["method"].endswith("numpy") else "-"
            axes.plot(row["seconds"], row["hypergradient"], style, marker=".", label=row["method"])
        axes.set(xscale="log", yscale="log", title=name, xlabel="seconds", ylabel="squared hypergradient")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right", fontsize="small")
    figure.savefig(path)
    return True


def median_of(runs: Sequence[Sequence[float]]) -> list[float]:
    """The median of several runs at each of their marks."""
    return [statistics.median(values) for values in zip(*runs, strict=False)]
