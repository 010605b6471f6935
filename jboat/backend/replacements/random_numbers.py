"""Drawing random numbers, which can be noted, as lower steps do, since steps that draw any share no graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jboat.backend.replacements import dispatch
from jboat.backend.replacements.dispatch import install
import jittor as jt

PLACE = (jt, "random")
install(*PLACE, "while the first lower step is built, drawing random numbers is noted")


@contextmanager
def noted(note: Callable[[], None]) -> Iterator[None]:
    """Call ``note`` at every draw inside the block, which is where a graph is built, not where it is computed."""
    draw = dispatch.current(*PLACE)

    def run(*args: Any, **kwargs: Any) -> Any:
        note()
        return draw(*args, **kwargs)

    with dispatch.replaced({PLACE: run}):
        yield


def can_be_noted() -> bool:
    """Whether draws go where :func:`noted` sees them; not where a user has put another function there."""
    return dispatch.is_replaceable(*PLACE)
