"""A run's metrics as a picture: a panel each, an evaluation's number over the step's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import os
from pathlib import Path
from typing import Any

from jboat.trainers.persistence.atomic_file import atomic_file

_FIRST = ("ul_loss", "ll_loss", "hypergradient_norm")
_COLUMNS = 3
_WIDTH, _HEIGHT = 4.4, 3.2  # inches of a panel
_VALIDATION = "val_"
_FEW_POINTS = 40
_INTERVAL = "_ci95"


def panels(names: Sequence[str]) -> list[list[str]]:
    """Which metrics share a panel: a step's own number, and after it that of evaluations of the same name."""
    own = [name for name in names if not name.startswith(_VALIDATION)]
    grouped = [[name, *([f"{_VALIDATION}{name}"] if f"{_VALIDATION}{name}" in names else [])] for name in own]
    alone = [name for name in names if name.startswith(_VALIDATION) and name.removeprefix(_VALIDATION) not in own]
    return [*grouped, *([name] for name in alone)]


def chosen(names: Sequence[str]) -> list[str]:
    """What is drawn by default: losses, the hypergradient's norm, and what evaluations give, with its counterpart."""
    evaluated = [name for name in names if name.startswith(_VALIDATION) and not name.endswith(_INTERVAL)]
    counterparts = [name for name in names if f"{_VALIDATION}{name}" in evaluated and name not in _FIRST]
    return [*(name for name in _FIRST if name in names), *counterparts, *evaluated]


def draw(rows: Sequence[Mapping[str, float]], names: Sequence[str], path: str | os.PathLike[str]) -> Path:
    """Draw metrics against the outer step and save the picture.

    Args:
        rows: one for each logged step.
        names: the metrics.
        path: the picture; its ending chooses the format.
    """
    from matplotlib.figure import Figure

    grouped = panels(names)
    columns = min(_COLUMNS, max(1, len(grouped)))
    lines = -(-len(grouped) // columns)
    figure = Figure(figsize=(_WIDTH * columns, _HEIGHT * max(1, lines)), layout="constrained")
    for position, together in enumerate(grouped, start=1):
        axes = figure.add_subplot(lines, columns, position)
        for name in together:
            _draw_one(axes, rows, name)
        axes.set_xlabel("outer step")
        axes.set_title(together[0].replace("_", " "))
        axes.grid(alpha=0.3)
        if len(together) > 1:
            axes.legend()
    with atomic_file(path, "wb") as file:
        figure.savefig(file, format=Path(path).suffix.lstrip(".") or "png")
    return Path(path)


def _draw_one(axes: Any, rows: Sequence[Mapping[str, float]], name: str) -> None:
    steps = [row["step"] for row in rows if name in row]
    values = [row[name] for row in rows if name in row]
    validation = name.startswith(_VALIDATION)
    axes.plot(
        steps,
        values,
        label="evaluation" if validation else "training",
        color="tab:orange" if validation else "tab:blue",
        marker="o" if len(steps) <= _FEW_POINTS and (validation or len(steps) == 1) else None,
        markersize=4,
        zorder=3 if validation else 2,
    )
    widths = [row.get(f"{name}{_INTERVAL}", 0.0) for row in rows if name in row]
    if any(widths):
        below, above = ([v + side * w for v, w in zip(values, widths, strict=True)] for side in (-1, 1))
        axes.fill_between(steps, below, above, color="tab:orange", alpha=0.2, linewidth=0)
