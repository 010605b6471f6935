"""What a ``fit`` takes up from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jboat.trainers.callback_list import CallbackList
from jboat.trainers.persistence.checkpoint import CheckpointError

if TYPE_CHECKING:
    from jboat.trainers.fit_loop import FitLoop


class Resumption:
    """Where the loaders stood and what callbacks remembered, from the loading of a checkpoint until ``fit`` starts.

    Attributes:
        loop: the last ``fit`` of the trainer, or None before the first one and after a checkpoint was loaded.
        under_way: whether a ``fit`` has taken up what there was, and not ended.
    """

    def __init__(self) -> None:
        self.loop: FitLoop | None = None
        self.under_way = False
        self._positions: dict[str, Any] | None = None
        self._callback_states: Mapping[str, Any] = {}

    def require_between_fits(self) -> None:
        """Refuse to load while a ``fit`` is under way.

        Raises:
            RuntimeError: if one is.
        """
        if self.under_way:
            raise RuntimeError(
                "load_checkpoint() was called while fit() is under way; load before it, or end it with "
                "state.request_stop() and call fit(resume_from=...)"
            )

    def positions(self) -> dict[str, Any] | None:
        """Where the loaders stand, for a checkpoint; None before the first ``fit``."""
        return self._positions if self.loop is None else self.loop.streams.positions()

    def keep(self, positions: dict[str, Any] | None, callback_states: Mapping[str, Any]) -> None:
        """Keep what a checkpoint holds for the next ``fit``."""
        self._positions, self._callback_states, self.loop = positions, callback_states, None

    def take_up(self, loop: FitLoop, callbacks: CallbackList) -> bool:
        """Give a loop's loaders and the callbacks what was kept, once; returns whether the loaders had stood somewhere.

        Raises:
            CheckpointError: if the loaders cannot have stood there, or give other batches.
        """
        positions, self._positions, self.loop = self._positions, None, loop
        self.under_way = True
        states, self._callback_states = self._callback_states, {}
        for key, callback in callbacks.by_key().items():
            if key in states:  # ``setup`` has let it start afresh
                callback.load_state_dict(states[key])
        if positions is None:
            return False
        try:
            loop.streams.take_positions(positions)
        except ValueError as error:
            raise CheckpointError(str(error)) from error
        return True
