"""Options that are true or false."""

from __future__ import annotations


def switch(operator: str, name: str, value: object) -> None:
    """Require True or False.

    Args:
        operator: whose option it is.
        name: what it is called.
        value: what was given.

    Raises:
        ValueError: if it is something else.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} of {operator} must be true or false, got {value!r}")
