"""The batches that a single-loop method takes in an outer step, and which of their loaders' they are."""

from __future__ import annotations

from typing import NamedTuple

from jboat.levels import Batch


class Counts(NamedTuple):
    """A number for each level.

    Attributes:
        lower: of the lower loader.
        upper: of the upper loader.
    """

    lower: int
    upper: int


class Places(NamedTuple):
    """Which batches these are, for methods that remember something of each.

    Attributes:
        at: the place of each level's batch in a pass over its loader, from 0.
        of: how many batches a pass has.
    """

    at: Counts
    of: Counts


class StepBatches(NamedTuple):
    """What an outer step trains on.

    Attributes:
        lower: lower batches, at least one.
        upper: upper batches, at least one.
        places: which of their loaders' the first ones are; None where they come from no loader.
    """

    lower: list[Batch]
    upper: list[Batch]
    places: Places | None = None
