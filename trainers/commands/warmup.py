"""``python -m jboat warmup``: compile what a job needs ahead of time.

Jittor compiles a kernel when it first meets it, and keeps it. Outer steps, K, batch sizes and epochs share their
kernels, so that a run of a few steps compiles what a long one needs.
"""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
import runpy
import sys
import tempfile
import time
from typing import IO

from jboat.trainers.commands import first_program, train
from jboat.trainers.rehearsal import rehearsal
import jittor as jt


def main(*, config: str | None, program: Path | None, arguments: list[str]) -> int:
    """Run a job for a few steps, without keeping its files, and print what was compiled.

    Args:
        config: a configuration, as ``train`` takes it, or None.
        program: any program that calls ``fit``; where that is None too, README's program is run.
        arguments: for ``program``, its command line.

    Returns:
        0; 2 where there is nothing to run, with the reason printed.
    """
    before, begun = _kernels(), time.perf_counter()
    with (
        rehearsal(),
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(_Without(folder, sys.stderr)),
    ):
        if config is None and program is not None:
            _run(program, arguments, folder)
        elif config is None:
            first_program.main()
        elif train.train([str(config)], [f"logger_dir={folder}"]) != 0:
            return 2
    jt.sync_all(True)
    new = len(_kernels() - before)
    print(f"{new} kernels compiled, {len(before) + new} in the cache, {time.perf_counter() - begun:.0f} s")
    return 0


def _run(program: Path, arguments: list[str], folder: str) -> None:
    wants = "--output" in program.read_text(encoding="utf-8", errors="replace") and "--output" not in arguments
    place = os.path.join(folder, "output")
    os.mkdir(place)  # which loggers make otherwise, and programs may write pictures into
    output = ["--output", place] if wants else []
    before, sys.argv = sys.argv, [str(program), *arguments, *output]
    try:
        runpy.run_path(str(program), run_name="__main__")
    finally:
        sys.argv = before


class _Without(io.TextIOBase):
    """Hands lines on to a stream, but not those that name a folder, which will be gone.

    Args:
        folder: the folder.
        stream: where the other lines go.
    """

    def __init__(self, folder: str, stream: IO[str]) -> None:
        super().__init__()
        self._folder = folder
        self._stream = stream
        self._line = ""

    def write(self, text: str) -> int:
        """Take a part of a line, or several lines."""
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if self._folder not in line:
                self._stream.write(f"{line}\n")
        return len(text)

    def flush(self) -> None:
        """Hand on what was written of a line."""
        if self._folder not in self._line:
            self._stream.write(self._line)
            self._line = ""
        self._stream.flush()


def _kernels() -> set[str]:
    folder = Path(jt.flags.cache_path) / "jit"
    return {path.name for path in folder.glob("*.so")} if folder.is_dir() else set()
