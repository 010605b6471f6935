"""Why a run ended."""

from __future__ import annotations

import enum


class StopReason(enum.Enum):
    """Why ``fit`` ended."""

    MAX_EPOCHS = "max_epochs"
    MAX_STEPS = "max_steps"
    MAX_TIME = "max_time"
    EARLY_STOPPING = "early_stopping"
    NON_FINITE = "non_finite"
    CALLBACK = "callback"
    INTERRUPTED = "interrupted"

    @classmethod
    def lasting(cls) -> tuple[StopReason, ...]:
        """The reasons that hold for a resumed run too: a callback decided, no limit of the ``fit`` that ended."""
        return cls.EARLY_STOPPING, cls.NON_FINITE, cls.CALLBACK
