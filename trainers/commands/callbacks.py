"""``python -m jboat callbacks``: callbacks and schedules with their arguments, as a section of docs/callbacks.md."""

from __future__ import annotations

from collections.abc import Callable
import inspect
from typing import Any

from jboat import callbacks
from jboat.callbacks import schedules
from jboat.trainers.commands.docstring_sections import entries, markdown

_PREFACE = """## Signatures

Made by `python -m jboat callbacks`; do not edit. All of these are in `jboat.callbacks`.
"""

_SCHEDULES = """### Schedules

Functions in `jboat.callbacks.schedules` that make a schedule: a function from the number of a step or epoch, from 0 on,
to a value. Any other function of that kind will do, such as `lambda step: 0.1 / (step + 1)`.
"""


def main() -> int:
    """Print the section; returns 0."""
    print(section())
    return 0


def section() -> str:
    """The section, from signatures and docstrings."""
    parts = [_PREFACE]
    for name in callbacks.__all__:
        member = getattr(callbacks, name)
        if inspect.isclass(member) and member is not callbacks.Callback:
            parts.append(f"### {name}\n\n`{name}{_signature(member)}`\n")
            meanings = _arguments(member)
            if meanings:
                parts.append("\n".join(f"* `{argument}`: {text}" for argument, text in meanings.items()) + "\n")
    parts.append(_SCHEDULES)
    lines = []
    for name, function in inspect.getmembers(schedules, inspect.isfunction):
        if not name.startswith("_"):
            meaning = " ".join(inspect.cleandoc(function.__doc__ or "").split("\n\n")[0].split())
            lines.append(f"* `{name}{_signature(function)}`: {markdown(meaning)}")
    return "\n".join([*parts, *lines])


def _arguments(member: type) -> dict[str, str]:
    """The arguments' meanings, from the class or the base class that documents them."""
    for cls in inspect.getmro(member):
        found = entries(cls.__doc__, "Args")
        if found:
            return found
    return {}


def _signature(member: Callable[..., Any]) -> str:
    """Names and defaults, without types."""
    signature = inspect.signature(member)
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=signature.empty))
