"""How signals are handled, also from C, which Python can neither tell nor set; Jittor sets some when it is imported.

Jittor ends the process, without a word to Python, at a Ctrl-C and when a child of it is killed or stopped, as a
``subprocess.run`` with a ``timeout`` kills its own. Under jboat a Ctrl-C raises KeyboardInterrupt as ever, and children
are the program's own affair, unless a Dataset of Jittor's reads in worker processes, one of which it would wait for.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import ctypes
import functools
import signal
import sys
from typing import Any

_SIZE = 1024  # bytes; Linux's struct sigaction has 152
_BY_DEFAULT = bytes(ctypes.sizeof(ctypes.c_void_p))


def action(number: int) -> Any:
    """The C library's record of how a signal is handled."""
    record = ctypes.create_string_buffer(_SIZE)
    ctypes.CDLL(None).sigaction(number, None, record)
    return record


def set_action(number: int, record: Any) -> None:
    """Handle a signal as :func:`action` has recorded it."""
    ctypes.CDLL(None).sigaction(number, record, None)


@contextlib.contextmanager
def kept() -> Iterator[dict[int, Any]]:
    """What the block changes in the handling of SIGINT and SIGCHLD is undone, and in the dictionary it yields."""
    if sys.platform == "win32":
        yield {}
        return
    before = {number: action(number) for number in (signal.SIGINT, signal.SIGCHLD)}
    changed: dict[int, Any] = {}
    try:
        yield changed
    finally:
        for number, record in before.items():
            changed[number] = action(number)
            set_action(number, record)


def watch_workers(jt: Any, of_jittor: dict[int, Any]) -> None:
    """Let Jittor's handler of SIGCHLD be in force while a Dataset has workers, where the program has none of its own.

    Args:
        jt: the imported Jittor.
        of_jittor: its records, from :func:`kept`, which come at the end of that block.
    """
    dataset = jt.dataset.Dataset
    begin, end = dataset._init_workers, dataset.terminate
    reading: set[int] = set()
    programs: Any = None

    def forget(data: Any) -> None:
        nonlocal programs
        reading.discard(id(data))
        if reading or programs is None:
            return
        if _handler(action(signal.SIGCHLD)) == _handler(of_jittor[signal.SIGCHLD]):
            set_action(signal.SIGCHLD, programs)
        programs = None

    @functools.wraps(begin)
    def begun(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal programs
        present = action(signal.SIGCHLD)
        if signal.SIGCHLD in of_jittor and _handler(present) == _BY_DEFAULT:
            programs = present
            set_action(signal.SIGCHLD, of_jittor[signal.SIGCHLD])
        reading.add(id(self))
        try:
            return begin(self, *args, **kwargs)
        except BaseException:
            forget(self)
            raise

    @functools.wraps(end)
    def ended(self: Any) -> None:
        try:
            end(self)
        finally:
            forget(self)

    dataset._init_workers, dataset.terminate = begun, ended


def _handler(record: Any) -> bytes:
    """The address in a record, which is its first field."""
    return bytes(record[: ctypes.sizeof(ctypes.c_void_p)])
