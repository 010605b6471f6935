"""What a chain's operators promise each other."""

from __future__ import annotations


def require(holds: bool, message: str) -> None:
    """Require an operator to stand in its place.

    An ``assert`` statement would be left out by ``python -O``.

    Raises:
        AssertionError: with the message, if it does not.
    """
    if not holds:
        raise AssertionError(message)
