"""The files that a ModelCheckpoint keeps, ordered by the values of its metric."""

from __future__ import annotations

from collections.abc import Iterable
import math
import re
from typing import Any

ScoredFile = tuple[float | None, str]
"""A file's score, of which less is better, and its name; None where its step had no value of the metric."""

NAME = r"step-[0-9]{8,15}(-measured)?\.npz"


def file_name(step: int, *, measured: bool) -> str:
    """What the checkpoint of a step is called.

    Args:
        step: the outer step.
        measured: whether another file of the step, which gives back other parameters, is to stand beside it.
    """
    return f"step-{step:08d}{'-measured' if measured else ''}.npz"


def step_of(file: ScoredFile) -> int:
    """The step whose checkpoint it is."""
    return int(file[1].removeprefix("step-").partition(".")[0].partition("-")[0])


def rank(file: ScoredFile) -> tuple[int, float, str]:
    """Numbers first, the least in front; then files without a score, the newest in front; then NaN."""
    score, name = file
    if score is None:
        return 1, -float(step_of(file)), name
    return (2, 0.0, name) if math.isnan(score) else (0, score, name)


def best_of(files: Iterable[ScoredFile]) -> ScoredFile | None:
    """The best of those whose score is a number."""
    return min((f for f in files if f[0] is not None and not math.isnan(f[0])), key=rank, default=None)


def from_state(state: dict[str, Any], *, unscored: bool) -> tuple[list[ScoredFile], ScoredFile | None]:
    """The files kept and the best, as a checkpoint names them.

    Args:
        state: with ``saved`` and, but in older checkpoints, ``best``.
        unscored: whether a file may have no score.

    Raises:
        KeyError: if ``saved`` is missing.
        ValueError: if there is something else than scores and bare names of ``step-...`` files.
    """
    if not isinstance(state["saved"], list):
        raise ValueError("saved must be a list")
    saved = [_scored_file(entry, unscored=unscored) for entry in state["saved"]]
    if "best" not in state:
        return saved, best_of(saved)
    best = None if state["best"] is None else _scored_file(state["best"], unscored=False)
    if best is not None and best_of([best]) is None:
        raise ValueError(f"the best cannot be {state['best']!r}")
    return saved, best


def _scored_file(entry: Any, *, unscored: bool) -> ScoredFile:
    score, name = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
    sound = type(score) in (int, float) or (score is None and unscored)
    if not sound or not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise ValueError(f"{entry!r} is no score and name of a step-... file")
    return None if score is None else float(score), name
