"""How many iterates of a lower loop to keep, chosen from the memory that one step takes and the memory that is free."""

from __future__ import annotations

import logging
import math
from typing import NamedTuple

from jboat.backend import free_memory, ranks
from jboat.warn_once import WarnOnce

logger = logging.getLogger("jboat")

USED = 0.5
"""The part of the free memory that a lower loop may fill; the rest is for the way back, F, and whoever else asks."""


class StepSize(NamedTuple):
    """What one lower step takes, in bytes.

    Attributes:
        graph: its graph, with what it leads to.
        iterate: what it starts from: parameters, optimizer state and running statistics.
    """

    graph: int
    iterate: int


def fitting(size: StepSize, steps: int, free: int) -> int:
    """How many iterates to keep; 0 where there is memory for the graphs of all steps.

    Args:
        size: what one step takes.
        steps: K.
        free: the memory that is free, in bytes.
    """
    room = int(USED * free)
    if steps * size.graph <= room:
        return 0
    return max(2, min(steps, (room - size.graph) // max(1, size.iterate)))


def chosen(size: StepSize, steps: int, *, agreed: bool, warn: WarnOnce) -> int:
    """:func:`fitting` for the memory that is free now; 0 where nobody says how much that is.

    Args:
        size: what one step takes.
        steps: K.
        agreed: whether all ranks are here and need the same number, as where each lower step reduces over them.
        warn: told where nobody says.
    """
    left = free_memory.free()
    own = [size.graph, size.iterate, math.inf if left is None else left]
    rows = ranks.gathered(own) if agreed else [own]
    graph, iterate, free = max(r[0] for r in rows), max(r[1] for r in rows), min(r[2] for r in rows)
    if free == math.inf:
        warn("checkpoints='auto': how much memory is free is not known, and all graphs are kept; give a number instead")
        return 0
    number = fitting(StepSize(int(graph), int(iterate)), steps, int(free))
    logger.info(
        "checkpoints='auto': a lower step takes %.3g MB and an iterate %.3g MB, %.3g MB are free: of %d steps %s",
        graph / 2**20,
        iterate / 2**20,
        free / 2**20,
        steps,
        f"{number} iterates are kept" if number else "all graphs are kept",
    )
    return number
