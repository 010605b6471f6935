"""Functions of Jittor that run others inside a block, in the context that runs it.

A dispatcher lies in the place of each such function from the start of Jittor on, and asks a context variable what to
run: Jittor's own function outside of a block, so that results and graphs there are Jittor's. It is the same object all
the time, whoever has imported it and when. Threads, nested blocks and exceptions need no care, since every block sets
the variable for its own context alone. A function that a user puts in a dispatcher's place is used and stays.

Where even asking would cost too much, as in every subtraction, the dispatcher lies in its place only while a block runs
that replaces the function, in whichever thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
from contextvars import ContextVar
import functools
import threading
from typing import Any, NamedTuple

Function = Callable[..., Any]
Place = tuple[Any, str]
"""A module or class of Jittor's, and the name of a function in it."""


class Installed(NamedTuple):
    """A dispatcher that was put in a place.

    Attributes:
        original: Jittor's function, which it runs outside of blocks.
        dispatcher: what lies in the place unless a user has put something else there.
        why: what is run instead inside a block of the trainer's, in a sentence.
        lasting: whether the dispatcher lies there outside of blocks as well.
    """

    original: Function
    dispatcher: Function
    why: str
    lasting: bool


_installed: dict[Place, Installed] = {}


class _Block:
    """A block that runs, or has ended, in this context or another."""

    def __init__(self, functions: Mapping[Place, Function]) -> None:
        self.functions = dict(functions)
        self.has_ended = False


_running_blocks: Counter[Place] = Counter()
"""How many blocks replace each function whose dispatcher does not last, in all threads."""

_lock = threading.Lock()
_blocks: ContextVar[tuple[_Block, ...]] = ContextVar("blocks that replace functions of Jittor, innermost last")


def install(owner: Any, name: str, why: str, *, lasting: bool = True) -> Function:
    """Put a dispatcher in a place, once; a function there that is not Jittor's own is left alone.

    Args:
        owner: a module or class of Jittor's.
        name: of a function there.
        why: see :class:`Installed`.
        lasting: False to have the dispatcher there only while :func:`replaced` replaces the function.

    Returns:
        The function that was found there when it was first asked for.
    """
    place = (owner, name)
    if place not in _installed:
        found = getattr(owner, name)
        dispatcher = _dispatcher(place, found)
        _installed[place] = Installed(found, dispatcher, why, lasting)
        if lasting and _is_jittors(found):
            setattr(owner, name, dispatcher)
    return _installed[place].original


def installed() -> Mapping[Place, Installed]:
    """All dispatchers so far."""
    return dict(_installed)


def current(owner: Any, name: str) -> Function:
    """What a call runs now."""
    found: Function = getattr(owner, name)
    known = _installed[owner, name]
    return _running((owner, name), known.original) if found is known.dispatcher else found


def is_replaceable(owner: Any, name: str) -> bool:
    """Whether :func:`replaced` has an effect there, since nobody has put a function of their own in the place."""
    return bool(getattr(owner, name) is _installed[owner, name].dispatcher)


@contextlib.contextmanager
def replaced(functions: Mapping[Place, Function]) -> Iterator[None]:
    """Let calls of Jittor's functions run others inside the block.

    Where blocks that replace the same function are nested, the innermost counts. A generator that is suspended inside a
    block shares it with its caller until it goes on.

    Args:
        functions: what runs instead, by place; a dispatcher must have been installed there. It reaches what it
            replaces by what :func:`install` or :func:`current` have returned before the block.

    Raises:
        KeyError: for a place without a dispatcher.
    """
    block = _Block({place: functions[place] for place in functions if _installed[place]})
    passing = [place for place in functions if not _installed[place].lasting]
    _blocks.set((*_open(), block))
    try:
        _put(passing)
        yield
    finally:
        block.has_ended = True  # blocks may end in another order than that of nesting, or by another thread
        _blocks.set(_open())
        _take_away(passing)


def _put(places: Sequence[Place]) -> None:
    """Put dispatchers that do not last in their places, but where a function of the user's lies."""
    with _lock:
        for owner, name in places:
            known = _installed[owner, name]
            _running_blocks[owner, name] += 1
            if getattr(owner, name) is known.original and _is_jittors(known.original):
                setattr(owner, name, known.dispatcher)


def _take_away(places: Sequence[Place]) -> None:
    """Take them away where no block is left that replaces the function, but where a function of the user's lies."""
    with _lock:
        for owner, name in places:
            known = _installed[owner, name]
            _running_blocks[owner, name] -= 1
            if not _running_blocks[owner, name] and getattr(owner, name) is known.dispatcher:
                setattr(owner, name, known.original)


def _open() -> tuple[_Block, ...]:
    return tuple(block for block in _blocks.get(()) if not block.has_ended)


def _running(place: Place, original: Function) -> Function:
    for block in reversed(_blocks.get(())):
        found = block.functions.get(place)
        if found is not None and not block.has_ended:
            return found
    return original


def _dispatcher(place: Place, found: Function) -> Function:
    @functools.wraps(found)
    def dispatcher(*args: Any, **kwargs: Any) -> Any:
        return _running(place, found)(*args, **kwargs)

    return dispatcher


def _is_jittors(function: Function) -> bool:
    """Whether a function is Jittor's own, or what jboat has made of one; a decorated one only says that it is."""
    home = getattr(function, "__globals__", {}).get("__name__") or getattr(function, "__module__", None)
    return not home or home.partition(".")[0].startswith("jittor") or home.startswith("jboat.backend")
