"""Hear how far Jittor is with kernels that it compiles, which it writes to the terminal by itself.

Jittor has no flag for these lines (``src/parallel_compiler.cc``): after two seconds of compiling it writes to
``std::cerr``, holding Python's lock, so that no other thread of Python can show anything meanwhile. A filter in front
of that stream, in C++, takes these lines out and calls Python in the thread that compiles.
"""

from __future__ import annotations

from collections.abc import Callable
import ctypes
import functools
import logging
from pathlib import Path
import re
import subprocess
import tempfile
import threading
from typing import Any, NamedTuple

import jittor as jt

logger = logging.getLogger("jboat")

_SOURCE = Path(__file__).with_suffix(".cc")
_LISTENER = ctypes.CFUNCTYPE(None, ctypes.c_char_p)
_MESSAGE = re.compile(r"Compiling Operators\((\d+)/(\d+)\) used: *(\S+?)s eta: *(\S+?)s")
_taken = threading.Lock()
_at_work: list[Any] = []
"""The listener that C++ calls, which has to live as long as it may be called, whatever becomes of its owner."""


class Compiling(NamedTuple):
    """How far Jittor is with the kernels that it compiles at once.

    Attributes:
        done: kernels that are compiled.
        of: how many there are.
        seconds: since it began.
        seconds_left: until it ends, as Jittor guesses.
    """

    done: int
    of: int
    seconds: float
    seconds_left: float


class KernelMessages:
    """Calls a function with what Jittor says of kernels, in place of its lines on the terminal, until :meth:`end`.

    That holds for what the thread compiles that made this. Where the filter cannot be made, or another one is at work,
    Jittor's lines stay where they are.

    Args:
        hear: must not use Jittor, which is in the midst of something. What it raises is raised by :meth:`settle`.
    """

    def __init__(self, hear: Callable[[Compiling], None]) -> None:
        self._hear = hear
        self._raised: BaseException | None = None
        self._listener = _LISTENER(self._listen)
        self._library = _library()
        if self._library is not None and _taken.acquire(blocking=False):
            _at_work[:] = [self._listener]
            self._library.listen(self._listener)
        else:
            self._library = None

    def settle(self) -> None:
        """Write what the filter holds back, the end of one of Jittor's lines, and raise what the function raised."""
        if self._library is not None:
            self._library.write_what_waits()
        raised, self._raised = self._raised, None
        if raised is not None:
            raise raised

    def end(self) -> None:
        """Leave Jittor's lines where they are again; then as :meth:`settle`."""
        library, self._library = self._library, None
        if library is not None:
            library.listen(_LISTENER())
            _at_work.clear()
            _taken.release()
        self.settle()

    def _listen(self, message: bytes) -> None:
        found = _MESSAGE.match(message.decode(errors="replace"))
        if found is None or self._raised is not None:
            return
        done, of, seconds, left = found.groups()
        try:
            self._hear(Compiling(int(done), int(of), float(seconds), float(left)))
        except BaseException as error:  # a second Ctrl-C among them; C++ cannot pass it on
            self._raised = error


@functools.cache
def _library() -> Any:
    """The filter, compiled where this machine's cache has none; None if it cannot be."""
    folder = Path(jt.flags.cache_path) / "jboat"
    try:
        built = _built(folder)
        library = ctypes.CDLL(str(built))
    except (OSError, subprocess.SubprocessError) as error:
        logger.debug("Jittor's lines about kernels stay on the terminal: %s", error)
        return None
    library.listen.argtypes, library.listen.restype = [_LISTENER], None
    library.write_what_waits.argtypes, library.write_what_waits.restype = [], None
    return library


def _built(folder: Path) -> Path:
    text = _SOURCE.read_text()
    source, built = folder / _SOURCE.name, folder / "kernel_messages.so"
    if built.exists() and source.exists() and source.read_text() == text:
        return built
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:  # two processes may do this at once
        fresh = Path(scratch) / source.name
        fresh.write_text(text)
        command = [jt.flags.cc_path, "-std=c++14", "-O1", "-fPIC", "-shared", str(fresh), "-ldl", "-o", f"{fresh}.so"]
        subprocess.run(command, check=True, capture_output=True)
        Path(f"{fresh}.so").replace(built)
        fresh.replace(source)
    return built
