"""Failures under ``mpirun``: what one rank raises alone ends all of them, what all raise is told once.

A rank that has failed takes part in nothing any more, and the others would wait for it for ever. So each that fails
tells the others by messages, which, unlike reductions, do not ask what they are doing, and waits a while for theirs.
Where all have failed the exception goes its way; where some have not, the program ends. A rank that is killed is
noticed by ``mpirun`` itself.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable
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

_TAG = 20220
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

    def send(self, word: int, to: int, tag: int) -> tuple[object, ...]:
        """Send a number without waiting; what is returned has to be kept until it was received."""
        content, request = ctypes.c_int64(word), ctypes.c_void_p()
        self._library.MPI_Isend(ctypes.byref(content), 8, self._bytes, to, tag, self._world, ctypes.byref(request))
        return content, request

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


_sent: list[object] = []
_rounds = 0
_depth = 0


def failing_together(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """A function that all ranks call together: what it raises on some of them alone ends the program.

    What all of them raise is raised as ever.
    """

    @functools.wraps(function)
    def guarded(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        global _depth
        if ranks.size() == 1 or _depth > 0:
            return function(*args, **kwargs)
        _depth += 1
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            if _words_of_all(error) is None:
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


def _leave() -> None:
    """End all ranks if this one leaves by ``sys.exit`` with a status that is not 0, and others do not."""
    status = jt.hooks.exit_code
    if status not in (None, 0):
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
    mpi, tag = _Mpi(), _TAG + _rounds
    _rounds += 1
    words = (
        "" if isinstance(error, KeyboardInterrupt) else str(error)
    )  # that names a checkpoint, which rank 0 alone has
    own = zlib.crc32(f"{type(error).__name__}: {words}".encode())
    others = [rank for rank in range(ranks.size()) if rank != ranks.rank()]
    _sent.extend(mpi.send(own, rank, tag) for rank in others)
    found: dict[int, int] = {ranks.rank(): own}
    until = time.monotonic() + WAIT
    while len(found) < ranks.size():
        for rank in others:
            if rank not in found and (word := mpi.received(rank, tag)) is not None:
                found[rank] = word
        if time.monotonic() > until:
            return None
        time.sleep(0.005)
    return [found[rank] for rank in range(ranks.size())]


def _end_all(error: BaseException) -> None:
    """Tell why, and end all ranks."""
    told = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    sys.stdout.flush()
    sys.stderr.write(f"{told}rank {ranks.rank()} of {ranks.size()} failed alone, which ends the others\n")
    sys.stderr.flush()
    _Mpi().abort()
    os._exit(1)
