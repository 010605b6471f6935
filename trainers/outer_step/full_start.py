"""Say once that a method which starts from all batches cannot start, and which batches are to blame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jboat.backend import ranks
from jboat.levels import Batch, batches_of_step
from jboat.sl_ol.batches import Counts, Places
from jboat.trainers.data.step_batches import Pair
from jboat.trainers.outer_step.method import OuterMethod
from jboat.warn_once import WarnOnce
import jittor as jt
import numpy as np


class FullStartWatch:
    """Warns, once, where a step is left out that the method will take again on the same batches, all there are."""

    def __init__(self) -> None:
        self._warn = WarnOnce()

    def look_at(
        self,
        method: OuterMethod,
        pair: Pair,
        places: Places | None,
        auxiliary: Mapping[str, list[jt.Var]],
        *,
        step: int,
    ) -> None:
        """Look at a step that was left out for what of it is not finite.

        Args:
            method: how it was done.
            pair: this rank's batches.
            places: which of their loaders' they are; None where they come from no loader.
            auxiliary: what the method kept from the step before.
            step: the outer step, counted from 1.
        """
        if places is None or not method.takes_lists or max(places.of) == 1:
            return
        levels = [batches_of_step(batches) for batches in pair]
        if Counts(*map(len, levels)) != places.of or method.batches(step + 1, places.of, auxiliary) != places.of:
            return
        blamed = [
            f"{level} batch {(first + i) % len(batches)}"
            for level, batches, first in zip(("lower", "upper"), levels, places.at, strict=True)
            for i, bad in enumerate(_not_finite(batches))
            if bad
        ]
        named = ", ".join(blamed[:_LISTED]) + (f" and {len(blamed) - _LISTED} more" if len(blamed) > _LISTED else "")
        self._warn(
            "%s starts from the full directions, on average over all %d lower and %d upper batches, so that every step "
            "is left out while one of them gives NaN or infinite numbers. %s.",
            method.name,
            *places.of,
            f"Such numbers are in {named}, counted from 0: leave these out"
            if blamed
            else "None holds such numbers itself",
        )


_LISTED = 10
"""How many batches a warning names."""


def _not_finite(batches: Sequence[Batch]) -> list[bool]:
    """Whether a value of each batch is NaN or infinite, on any rank."""
    own = [float(any(not _finite(value) for value in batch.values())) for batch in batches]
    return [any(of_ranks) for of_ranks in zip(*ranks.gathered(own), strict=True)]


def _finite(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_finite, value))
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    array = value.numpy() if isinstance(value, jt.Var) else np.asarray(value)
    return array.dtype.kind not in "fc" or bool(np.isfinite(array).all())
