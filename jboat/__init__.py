"""Gradient-based bilevel optimization on Jittor: a trainer, callbacks, and exact hypergradient operators."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import PurePath
import sys
from typing import TYPE_CHECKING, Any

from jboat.backend.start import start, start_when_used
from jboat.public_names import HOMES, imported

if TYPE_CHECKING:
    from jboat.registry import register_operator as register_operator
    from jboat.stop_reason import StopReason as StopReason
    from jboat.trainers.bilevel_trainer import BilevelTrainer as BilevelTrainer
    from jboat.trainers.errors import DeviceMemoryError as DeviceMemoryError
    from jboat.trainers.errors import NonFiniteError as NonFiniteError
    from jboat.trainers.errors import SecondOrderError as SecondOrderError
    from jboat.trainers.history import History as History
    from jboat.trainers.outer_step.result import HyperGradientResult as HyperGradientResult
    from jboat.trainers.persistence.weights import load_weights as load_weights
    from jboat.trainers.trainer_state import TrainerState as TrainerState
    from jboat.trajectory import Trajectory as Trajectory

__version__ = version("jboat-trainer")

__all__ = ["__version__", *HOMES]


def _is_the_program() -> bool:
    """Whether Python runs ``jboat`` or ``-m jboat``, whatever options of its own stand before."""
    of_python = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    as_module = sys.argv[:1] == ["-m"] and of_python[-1].endswith("jboat")
    return as_module or PurePath(sys.argv[0] if sys.argv else "").name == "jboat"


if _is_the_program():  # of which many commands need no Jittor, and the doctor tells why it does not start
    start_when_used()
else:
    start()


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'jboat' has no attribute {name!r}")
    return imported(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *HOMES})
