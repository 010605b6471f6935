"""Functions of Jittor that are others while a block runs, in the threads that run it.

Blocks of several threads may overlap, and blocks may be nested: other threads keep Jittor's functions, and Jittor is as
it was when the last block has ended. What a user has put in a function's place, before or inside a block, is used
there and stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import functools
import threading
from typing import Any

Function = Callable[..., Any]
Place = tuple[Any, str]
"""A module or class of Jittor's, and the name of a function in it."""


class _Thread(threading.local):
    """What one thread replaces: by block, in the order they were entered, and by place."""

    def __init__(self) -> None:
        self.blocks: list[Mapping[Place, Function]] = []
        self.functions: dict[Place, Function] = {}


@dataclasses.dataclass
class _Slot:
    """A place, the function found there, and the one that lies there while any thread replaces it.

    The latter, ``entrance``, leads every thread to its own function.
    """

    owner: Any
    name: str
    original: Function
    is_jittors: bool
    is_inherited: bool
    entrance: Function
    blocks: int = 0

    def found(self) -> Function:
        function: Function = vars(self.owner).get(self.name, self.original)
        return function

    def enter(self) -> None:
        self.blocks += 1
        if self.is_jittors and self.found() is self.original:
            setattr(self.owner, self.name, self.entrance)

    def leave(self) -> None:
        self.blocks -= 1
        if self.blocks or self.found() is not self.entrance:
            return
        if self.is_inherited:
            delattr(self.owner, self.name)
        else:
            setattr(self.owner, self.name, self.original)


_thread = _Thread()
_slots: dict[Place, _Slot] = {}
_lock = threading.Lock()


def originals(*places: Place) -> dict[Place, Function]:
    """The functions that were in these places when they were first asked for, or replaced.

    A module that replaces functions asks for them when it is imported, so that what a user puts there later is told
    from what is Jittor's own.
    """
    with _lock:
        return {place: _slot(place).original for place in places}


def current(owner: Any, name: str) -> Function:
    """What a call in this thread runs now."""
    with _lock:
        slot = _slot((owner, name))
    found = slot.found()
    return _thread.functions.get((owner, name), slot.original) if found is slot.entrance else found


def is_replaceable(owner: Any, name: str) -> bool:
    """Whether :func:`replaced` has an effect there, since nobody else has put a function of their own in the place."""
    with _lock:
        slot = _slot((owner, name))
    return slot.is_jittors and slot.found() in (slot.original, slot.entrance)


@contextlib.contextmanager
def replaced(functions: Mapping[Place, Function]) -> Iterator[None]:
    """Let this thread's calls of Jittor's functions run others inside the block.

    Where blocks that replace the same function are nested, the innermost counts.

    Args:
        functions: what runs instead, by place. It reaches what it replaces by what :func:`originals` or
            :func:`current` have returned before the block. A place where something lies that is not Jittor's
            own is left alone.
    """
    block = dict(functions)
    blocks, by_place = _thread.blocks, _thread.functions  # of this thread, whichever one ends the block
    with _lock:
        slots = [_slot(place) for place in block]
        for slot in slots:
            slot.enter()
    blocks.append(block)
    by_place.update(block)
    try:
        yield
    finally:
        blocks[:] = [other for other in blocks if other is not block]
        by_place.clear()
        for other in blocks:
            by_place.update(other)
        with _lock:
            for slot in slots:
                slot.leave()


def _slot(place: Place) -> _Slot:
    if place not in _slots:
        owner, name = place
        found = getattr(owner, name)
        _slots[place] = _Slot(owner, name, found, _is_jittors(found), name not in vars(owner), _entrance(place, found))
    return _slots[place]


def _entrance(place: Place, found: Function) -> Function:
    @functools.wraps(found)
    def entrance(*args: Any, **kwargs: Any) -> Any:
        return _thread.functions.get(place, found)(*args, **kwargs)

    return entrance


def _is_jittors(function: Function) -> bool:
    module = getattr(function, "__module__", None)  # functions of C++ have none
    return not module or module.partition(".")[0].startswith("jittor")
