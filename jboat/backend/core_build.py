"""Compile Jittor's core in a process of its own, with progress, before this process imports Jittor.

Where settings have changed, Jittor's import compiles a part of its core, prints that the program has to be started
again, and ends it. What a start needs is written down after each successful one; where that no longer holds, another
process imports Jittor first, as often as it takes.
"""

from __future__ import annotations

from collections.abc import Iterator
import json
import logging
import os
from pathlib import Path
import re
import subprocess
import sys
import tempfile
import time
import zlib

from jboat.backend import quick_build
from tqdm import tqdm

logger = logging.getLogger("jboat")

_SETTINGS = re.compile(r"(cc|nvcc|kernel|python_config|mpicc|mkl|use|cuda|conv|cutt|cutlass|nccl)_\w+|debug|enable_lto")
_OF_MPI = ("OMPI_", "PMIX_", "PMI_")
_PROGRESS = re.compile(r"Compiling (\w+)\((\d+)/(\d+)\) used: [\d.]+s eta: ([\d.]+)s")
_ATTEMPTS = 3
_SECONDS_BETWEEN_LINES = 30.0
_LINES_OF_AN_ERROR = 15
_IMPORT = """\
import json, runpy, sys
sys.path[:] = json.loads(sys.argv[1])
from jittor_utils import install_cuda
install_cuda.has_installation = lambda: False
runpy.run_path(sys.argv[2])["use"]()
import jittor
try:
    from jboat.backend.cpu_ops import load
    load()
except Exception:  # the process that waits for this one loads them too, and says what is wrong
    pass
"""
_ELSEWHERE = "JBOAT_COMPILES_JITTOR"
"""Set in the other process, in which jboat, should it be imported there, must not start one more."""


class Start:
    """A start of Jittor with the settings of this moment's environment.

    Args:
        cache: the folder of this environment in Jittor's cache (``jittor_utils.cache_path``).
        jittor_version: the version of Jittor that is installed.
    """

    def __init__(self, cache: Path, jittor_version: str) -> None:
        settings = {name: value for name, value in sorted(os.environ.items()) if _SETTINGS.fullmatch(name)}
        key = zlib.crc32(json.dumps([jittor_version, settings]).encode())
        self._cache = cache
        self._record = cache / "jboat" / f"started-{key:08x}.json"

    def compile_what_is_missing(self) -> None:
        """Compile whatever the import of Jittor would have to compile.

        Raises:
            RuntimeError: if Jittor cannot be compiled, with the end of what it said.
        """
        no_python = not sys.executable or getattr(sys, "frozen", False) or _ELSEWHERE in os.environ
        if no_python or self._is_as_written_down():
            return
        if not self._core():
            logger.warning("Jittor compiles its core for this environment: once, for two to five minutes.")
        for _ in range(_ATTEMPTS):
            status, said = _import_elsewhere()
            if status != 0:
                end = "\n".join(said.splitlines()[-_LINES_OF_AN_ERROR:])
                raise RuntimeError(
                    f"Jittor could not be compiled; `python -m jboat doctor` says what is missing:\n{end}"
                )
            if "please rerun" not in said:
                return

    def write_down(self) -> None:
        """Note what this start, which succeeded, has found, so that the next one needs no other process."""
        if self._is_as_written_down():
            return
        try:
            self._record.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._record.parent) as scratch:
                fresh = Path(scratch) / self._record.name
                fresh.write_text(json.dumps(self._core()))
                fresh.replace(self._record)
        except OSError as error:
            logger.debug("the next start looks for changes again: %s", error)

    def _is_as_written_down(self) -> bool:
        try:
            return bool(json.loads(self._record.read_text()) == self._core())
        except (OSError, ValueError):
            return False

    def _core(self) -> dict[str, int]:
        """When each library of the core was built; another program with other settings may have built it anew."""
        patterns = ("jit_utils_core*.so", "jittor_core*.so", "*/jittor_core*.so")
        found = [path for pattern in patterns for path in self._cache.glob(pattern)]
        return {str(path.relative_to(self._cache)): path.stat().st_mtime_ns for path in sorted(found)}


def leave_downloaded_cuda_alone() -> None:
    """Keep Jittor's import from the CUDA that it has downloaded for an earlier program.

    Where there is one, it starts the program again without CUDA in its PATH, and downloads one more for a newer driver.
    Which compiler Jittor takes is settled by ``nvcc_path``.
    """
    from jittor_utils import install_cuda

    install_cuda.has_installation = lambda: False


def forget_the_import() -> None:
    """Let the next ``import jittor`` begin anew.

    The library that the last one rebuilt stays loaded as it was before, and compiles on; it differs by its flags alone.
    """
    for name in list(sys.modules):
        if name.partition(".")[0] in ("jittor", "jittor_core", "jit_utils_core"):
            del sys.modules[name]
    import jittor_utils

    jittor_utils.cc = None


def _import_elsewhere() -> tuple[int, str]:
    """Import Jittor in another process; its exit status and what it said."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_OF_MPI)}
    environment |= {"log_silent": "0", _ELSEWHERE: "1"}  # Jittor counts files only where it is not silent
    said: list[str] = []
    path = [place for place in sys.path if isinstance(place, str)]
    process = subprocess.Popen(
        [sys.executable, "-I", "-u", "-c", _IMPORT, json.dumps(path), quick_build.__file__],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
    )
    try:
        with _Progress() as progress:
            for line in _lines(process):
                if not progress.tells(line):
                    said.append(line)
        return process.wait(), "\n".join(said)
    finally:
        if process.poll() is None:  # it holds Jittor's lock
            process.terminate()
            process.wait()


def _lines(process: subprocess.Popen[bytes]) -> Iterator[str]:
    """What a process writes, by lines that end with a line feed or a carriage return."""
    assert process.stdout is not None
    pending = b""
    while block := os.read(process.stdout.fileno(), 65536):
        *whole, pending = re.split(rb"[\r\n]", pending + block)
        yield from (line.decode(errors="replace") for line in whole if line)
    if pending:
        yield pending.decode(errors="replace")


class _Progress:
    """A bar on a terminal, or a line in the log every so often."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._name = ""
        self._last = time.monotonic()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def tells(self, line: str) -> bool:
        """Whether a line tells how far Jittor is, which is shown then."""
        found = _PROGRESS.search(line)
        if found is None:
            return False
        name, done, total, left = found[1], int(found[2]), int(found[3]), float(found[4])
        if name != self._name:
            self._close()
            self._name = name
            self._bar = tqdm(total=total, desc=f"compiling {name}", unit="file", disable=None, leave=False)
        assert self._bar is not None
        self._bar.update(done - self._bar.n)
        now = time.monotonic()
        if self._bar.disable and now - self._last > _SECONDS_BETWEEN_LINES:
            self._last = now
            share = 100 * done // total
            logger.warning(
                "Jittor compiles %s: %d of %d files (%d%%), about %.0f s left", name, done, total, share, left
            )
        return True
