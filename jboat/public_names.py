"""Where the names live that ``jboat`` and ``jboat.trainers`` hand out; they are imported when they are first used."""

from __future__ import annotations

import importlib
from typing import Any

HOMES = {
    "BilevelTrainer": "jboat.trainers.bilevel_trainer",
    "DeviceMemoryError": "jboat.trainers.errors",
    "History": "jboat.trainers.history",
    "HyperGradientResult": "jboat.trainers.outer_step.result",
    "NonFiniteError": "jboat.trainers.errors",
    "SecondOrderError": "jboat.trainers.errors",
    "StopReason": "jboat.stop_reason",
    "TrainerState": "jboat.trainers.trainer_state",
    "Trajectory": "jboat.trajectory",
    "load_weights": "jboat.trainers.persistence.weights",
    "register_operator": "jboat.registry",
}


def imported(name: str) -> Any:
    """What is called so."""
    return getattr(importlib.import_module(HOMES[name]), name)
