"""Options that are true or false."""

from __future__ import annotations

from typing import Any


def switch(option: str, value: object) -> None:
    """Require True or False.

    Args:
        option: what to call it in an error.
        value: what was given.

    Raises:
        ValueError: if it is something else.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{option} must be true or false, got {value!r}")


def goes_through(options: Any) -> bool:
    """Whether an operator with these options differentiates the lower optimizer's own step."""
    return bool(getattr(options, "through_optimizer", False))
