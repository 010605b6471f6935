"""Failures under ``mpirun``: what one rank raises alone ends all of them, what all raise is told once.

A rank that has failed takes part in nothing any more, and the others would wait for it for ever. So each that fails
tells the others by messages, which, unlike reductions, do not ask what they are doing, and waits a while for theirs.
Where all have failed the exception goes its way; where some have not, the program ends. A rank that is killed is
noticed by ``mpirun`` itself.

In the same way ranks meet where a function begins that all have to call, so that one that calls it alone learns that
the others have left, or called another one.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator
import ctypes
import functools
import logging
import os
import sys
import time
import traceback
from types import TracebackType
from typing import ParamSpec, TypeVar
import zlib

from jboat.backend import ranks
import jittor as jt

WAIT = 15.0
"""Seconds within which the others have to fail too."""

WAIT_WITHIN_A_CALL = 300.0
"""Seconds within which the others have to call a function too that is called from within another one, as in ``fit``."""

_SECONDS_BEFORE_A_WORD = 30.0
_CALL_TAG, _TAG = 20219, 20220
_LEFT = -1
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class _Mpi:
    """The few functions of OpenMPI's library that Jittor does not hand on."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)  # where Jittor has loaded it
        self._world = self._constant("ompi_mpi_comm_world")
        self._bytes = self._constant("ompi_mpi_byte")

    def _constant(self, name: str) -> ctypes.c_void_p:
        return ctypes.c_void_p(ctypes.addressof(ctypes.c_char.in_dll(self._library, name)))

    def send(self, word: int, to: int, tag: int) -> tuple[ctypes.c_int64, ctypes.c_void_p]:
        """Send a number without waiting; what is returned has to be kept until it was received."""
        content, request = ctypes.c_int64(word), ctypes.c_void_p()
        self._library.MPI_Isend(ctypes.byref(content), 8, self._bytes, to, tag, self._world, ctypes.byref(request))
        return content, request

    def wait(self, sent: tuple[ctypes.c_int64, ctypes.c_void_p]) -> None:
        """Wait until what :meth:`send` returned may be forgotten."""
        self._library.MPI_Wait(ctypes.byref(sent[1]), None)

    def received(self, sender: int, tag: int) -> int | None:
        """The number that a rank has sent, or None where none is there yet."""
        there, content = ctypes.c_int(), ctypes.c_int64()
        self._library.MPI_Iprobe(sender, tag, self._world, ctypes.byref(there), None)
        if not there.value:
            return None
        self._library.MPI_Recv(ctypes.byref(content), 8, self._bytes, sender, tag, self._world, None)
        return content.value

    def abort(self) -> None:
        """End all ranks with exit status 1."""
        self._library.MPI_Abort(self._world, 1)


_logger = logging.getLogger("jboat")
_sent: list[object] = []
_names: list[str] = []
_rounds = 0
_depth = 0


def failing_together(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """A function that all ranks call together: what it raises on some of them alone ends the program.

    What all of them raise is raised as ever. A rank that calls it and waits for others in vain raises a RuntimeError.
    """
    _names.append(function.__name__)
    number = len(_names) - 1

    @functools.wraps(function)
    def guarded(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        global _depth
        if ranks.size() == 1:
            return function(*args, **kwargs)
        _depth += 1
        try:
            _meet(number)
            return function(*args, **kwargs)
        except BaseException as error:
            if _depth == 1 and _words_of_all(error) is None:
                _end_all(error)
            raise
        finally:
            _depth -= 1

    return guarded


def use() -> None:
    """Let an exception that nobody catches end all ranks, one that all raise be printed once, and rank 0 alone warn."""
    if ranks.size() > 1:
        sys.excepthook = functools.partial(_told_once, sys.excepthook)
        atexit.register(_leave)
    if ranks.rank() > 0:
        logging.getLogger("jboat").setLevel(logging.ERROR)


def _meet(number: int) -> None:
    """Wait until all ranks have called a function that :func:`failing_together` has made.

    Raises:
        RuntimeError: if a rank has left the program, called another one, or, within a call, does not come for long.
    """
    name, begun, told = _names[number], time.monotonic(), False
    for found in _words(number, _CALL_TAG):
        seconds = time.monotonic() - begun
        absent = ", ".join(str(rank) for rank in range(ranks.size()) if found.get(rank, _LEFT) == _LEFT)
        if _LEFT in found.values() or (absent and _depth > 1 and seconds > WAIT_WITHIN_A_CALL):
            raise RuntimeError(f"{name}() has to be called by all ranks, but was not by rank {absent}")
        if absent and not told and seconds > _SECONDS_BEFORE_A_WORD:
            told = True
            _logger.error("rank %s waits in %s() for rank %s: all ranks have to call it", ranks.rank(), name, absent)
    if len(set(found.values())) > 1:
        calls = ", ".join(f"rank {rank} {_names[word]}()" for rank, word in sorted(found.items()))
        raise RuntimeError(f"all ranks have to call the same methods in the same order, but {calls}")


def _leave() -> None:
    """Tell the others that this rank leaves; if by ``sys.exit`` with a status that is not 0, end those that do not."""
    status = jt.hooks.exit_code
    if status in (None, 0):
        mpi = _Mpi()
        _sent.extend(mpi.send(_LEFT, rank, _CALL_TAG) for rank in range(ranks.size()) if rank != ranks.rank())
        return
    error = SystemExit(status)
    if _words_of_all(error) is None:
        _end_all(error)


def _told_once(
    before: Callable[..., object], kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    words = _words_of_all(error)
    if words is None:
        _end_all(error)
    elif ranks.rank() == 0 or words[ranks.rank()] != words[0]:
        before(kind, error, trace)


def _words_of_all(error: BaseException) -> list[int] | None:
    """A checksum of what each rank has raised; None where some have raised nothing for a while."""
    global _rounds
    tag, until = _TAG + _rounds, time.monotonic() + WAIT
    _rounds += 1
    words = (
        "" if isinstance(error, KeyboardInterrupt) else str(error)
    )  # that names a checkpoint, which rank 0 alone has
    for found in _words(zlib.crc32(f"{type(error).__name__}: {words}".encode()), tag):
        if len(found) < ranks.size() and time.monotonic() > until:
            return None
    return [found[rank] for rank in range(ranks.size())]


def _words(own: int, tag: int) -> Iterator[dict[int, int]]:
    """Send a word to the others, and tell again and again which of them have sent theirs, until all have."""
    mpi = _Mpi()
    others = [rank for rank in range(ranks.size()) if rank != ranks.rank()]
    sent = [mpi.send(own, rank, tag) for rank in others]
    _sent.extend(sent)
    found = {ranks.rank(): own}
    while True:
        for rank in others:
            if rank not in found and (word := mpi.received(rank, tag)) is not None:
                found[rank] = word
        if len(found) == ranks.size():
            break
        yield found
        time.sleep(0.001)
    for message in sent:
        mpi.wait(message)
    del _sent[-len(sent) :]
    yield found


def _end_all(error: BaseException) -> None:
    """Tell why, and end all ranks."""
    told = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    sys.stdout.flush()
    sys.stderr.write(f"{told}rank {ranks.rank()} of {ranks.size()} failed alone, which ends the others\n")
    sys.stderr.flush()
    _Mpi().abort()
    os._exit(1)
