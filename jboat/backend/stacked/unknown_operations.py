"""The name of an operation that cannot take arrays of several tasks, from the error that it raised."""

from __future__ import annotations

from collections.abc import Iterator
import re
import traceback
from types import FrameType

from jboat.backend.stacked.array import Stacked
from jittor import nn

_USAGE = re.compile(r"Wrong inputs arguments.*?help\(jt\.(?:ops\.)?(\w+)\)", re.S)
_WRAPPERS = ("execute", "inner")  # that of a container, and what a scope of flags makes of a function


def in_words(error: Exception) -> str:
    """What cannot be computed for several tasks at once, in words; empty where an error is about something else."""
    usage = _USAGE.search(str(error))
    missing = error.name if isinstance(error, AttributeError) and isinstance(error.obj, Stacked) else ""
    name = next(_called(error), "") or (usage[1] if usage else missing)
    if name:
        return f"{name} of arrays that differ from task to task"
    told = str(error)
    return told.replace("'Stacked' object", "an array that differs from task to task") if "'Stacked'" in told else ""


def _called(error: Exception) -> Iterator[str]:
    """The functions and layers of Jittor that were called last, the one that the objective calls first."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    users = [i for i, frame in enumerate(frames) if not _is_of_a_library(frame)]
    for frame in frames[users[-1] + 1 if users else 0 :]:
        layer, name = frame.f_locals.get("self"), frame.f_code.co_name
        if name == "execute" and not isinstance(layer, nn.Sequential):
            yield type(layer).__name__
        elif name not in _WRAPPERS and not name.startswith("_") and _module(frame).startswith("jittor"):
            yield name


def _is_of_a_library(frame: FrameType) -> bool:
    name = f"{_module(frame)}."
    return name.startswith(("jittor.", "jboat.backend.")) and not name.startswith("jittor.models.")


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
