"""The loaders of one ``fit``, as streams whose places a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import logging
from typing import Any

from jboat.sl_ol.batches import Counts, Places
from jboat.trainers.data.loader_stream import LoaderStream

logger = logging.getLogger("jboat")


class FitStreams:
    """Lower and upper batches and, where there is a loader for it, batches to evaluate.

    Args:
        ll_loader: lower batches; an epoch is a pass over them.
        ul_loader: upper batches.
        val_loader: batches to evaluate, or None.
        seeds: what the random numbers of each loader derive from; None where they are left alone.
        limits: how many batches a pass over each has at most; None for all.
    """

    def __init__(
        self,
        ll_loader: Any,
        ul_loader: Any,
        val_loader: Any,
        seeds: Sequence[int | None],
        limits: Sequence[int | None] = (None, None, None),
    ) -> None:
        self.ll = LoaderStream(ll_loader, "ll_loader", seeds[0], limits[0])
        self.ul = LoaderStream(ul_loader, "ul_loader", seeds[1], limits[1])
        self.val = None if val_loader is None else LoaderStream(val_loader, "val_loader", seeds[2], limits[2])

    @property
    def lengths(self) -> Counts | None:
        """How many batches a pass over each loader has; None where one does not tell."""
        lower, upper = self.ll.length, self.ul.length
        return None if lower is None or upper is None else Counts(lower, upper)

    def places(self, drawn: Counts) -> Places | None:
        """Which of each loader's batches the first one of the last draws was; None where a length is not known.

        Args:
            drawn: how many were drawn of each.
        """
        of = self.lengths
        if of is None:
            return None
        last = Counts(self.ll.position - 1, self.ul.position - 1)
        at = Counts(*((place - count + 1) % length for place, count, length in zip(last, drawn, of, strict=True)))
        return Places(at, of)

    def positions(self) -> dict[str, Any]:
        """Where the loaders stand, for a checkpoint."""
        streams = {"ll": self.ll, "ul": self.ul, "val": self.val}
        return {name: stream.state_dict() for name, stream in streams.items() if stream is not None}

    def take_positions(self, positions: Mapping[str, Any]) -> None:
        """Send the loaders where a checkpoint left them.

        Raises:
            ValueError: if those that are trained on cannot have stood there, or give other batches.
        """
        self.ll.load_state_dict(positions["ll"])
        self.ul.load_state_dict(positions["ul"])
        if self.val is not None and "val" in positions:
            try:
                self.val.load_state_dict(positions["val"])
            except ValueError as error:
                logger.warning("%s: its order starts afresh", error)

    def commit(self) -> None:
        """Count the batches drawn for an outer step as used."""
        self.ll.commit()
        self.ul.commit()

    def pass_is_over(self, *, look: bool) -> bool:
        """Whether the pass over the lower loader has ended.

        Args:
            look: whether to draw, where that alone can tell.
        """
        if self.ll.wrapped or self.ll.between_passes:
            return True
        if look and self.ll.may_be_at_end and self.ll.draw() is None:
            self.ll.commit()
            return True
        return False
