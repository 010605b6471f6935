"""Compile Jittor's core in half of the processor time, under the names and keys that Jittor gives it.

Most of the time goes into headers, which g++ reads anew for each of 150 files, and into optimizing code that no step of
a training runs. Here the headers are compiled once for all files of one command line, and that code is optimized less.
The library that Jittor loads first, which it compiles twice and on one core, is compiled once and on all.

An object file is Jittor's own where a file beside it holds the command and the hashes of all that went into it. That
key is Jittor's here as well, so that any later import takes the core for what it would have compiled, and a core that
is there stays. What cannot be compiled here is left to Jittor. The process that compiles runs this file by its path,
before it imports Jittor: it must not import jboat, which would start Jittor.
"""

from __future__ import annotations

import atexit
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
import contextlib
from functools import partial
import itertools
import os
from pathlib import Path
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

_HEADERS = """\
#include <algorithm>
#include <cmath>
#include <fstream>
#include <iomanip>
#include <sstream>
#include "common.h"
#include "var.h"
#include "op.h"
#include "var_holder.h"
#include "fused_op.h"
#include "graph.h"
#include "executor.h"
#include "op_compiler.h"
#include "ops/op_register.h"
#include "pyjt/py_converter.h"
#include "pyjt/py_arg_printer.h"
#include "utils/seh.h"
#include "utils/str_utils.h"
"""
_READS_HEADERS = "/src/common.h: "
"""What stands in the key of a file that includes some of them."""
_WORTH_HEADERS = 4
_NOT_IN_STEPS = re.compile(
    r"/jittor/src/((opt|test|pybind|utils)/.*|misc/miniz|op_compiler|parallel_compiler|memory_profiler)\.?\w*$"
)
"""Files whose code runs when a kernel is compiled, or never."""
_OF_HEADERS_ALONE = 30_000
_FOR_LINKING = re.compile(r"(-l|-L|-Wl,|-shared).*")
_WARNINGS = re.compile(r"-W.*|-fdiagnostics-color.*")
_FOLDER = "quick-"


class _Object(NamedTuple):
    """What one command of Jittor's compiles."""

    command: str
    source: Path
    output: Path
    flags: tuple[str, ...]
    key: str

    @property
    def is_there(self) -> bool:
        noted = _key_file(self.output)
        return self.output.exists() and noted.exists() and noted.read_text() == self.key

    @property
    def reads_headers(self) -> bool:
        return _READS_HEADERS in self.key

    @property
    def weight(self) -> int:
        """About how long it takes, in no unit."""
        return _OF_HEADERS_ALONE + self.source.stat().st_size


def use() -> None:
    """Let the import of Jittor that follows in this process compile quickly, where g++ does it on Linux."""
    import jittor_utils

    flags = os.environ.get("cc_flags", "")  # noqa: SIM112
    if sys.platform != "linux" or jittor_utils.cc_type != "g++" or "-include" in flags:
        return
    build = _Build(jittor_utils)
    jittor_utils.run_cmds = partial(build.objects, jittor_utils.run_cmds)
    jittor_utils.run_cmd = partial(build.before_keys, jittor_utils.run_cmd)
    jittor_utils.try_import_jit_utils_core = partial(build.key_of_first, jittor_utils.try_import_jit_utils_core)


class _Build:
    """Stands in for the functions of ``jittor_utils`` that run g++, under the lock that Jittor holds meanwhile."""

    def __init__(self, jittor_utils: Any) -> None:
        self._of_jittor = jittor_utils
        self._compiler = f'"{jittor_utils.cc_path}" '
        self._cores = min(16, len(os.sched_getaffinity(0)))
        self._headers: dict[tuple[str, ...], Future[Path | None]] = {}
        self._beside = ThreadPoolExecutor(1)
        self._numbers = itertools.count()
        self._folder: Path | None = None
        self._first_library: tuple[str, Path, Path] | None = None

    def objects(
        self, plain: Callable[..., None], commands: list[str], cache: str, jittor: str, message: str = "run_cmds"
    ) -> None:
        """Compile what ``run_cmds`` has to; what fails, and what is not for g++, is left to it."""
        try:
            left = self._compiled(commands, cache, jittor, message)
        except (OSError, RuntimeError, ValueError):
            left = commands
        if left:
            plain(left, cache, jittor, message)

    def before_keys(self, plain: Callable[..., Any], command: str, *args: Any, **kwargs: Any) -> Any:
        """Compile what ``run_cmd`` has to, which Jittor calls for the two files that it compiles without a key."""
        if command.startswith(self._compiler) and command.endswith('/data.o"'):
            self._begin_headers(_to_compile(shlex.split(command.partition(" -include ")[0])[1:]))
            return plain(command.replace(" -O2 ", " -O1 "), *args, **kwargs)
        if command.startswith(self._compiler) and "/jit_utils_core." in command:
            try:
                self._compile_first_library(command)
            except (OSError, ValueError, subprocess.SubprocessError):
                return plain(command, *args, **kwargs)
            return ""
        return plain(command, *args, **kwargs)

    def key_of_first(self, plain: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Import the first library, and write its key, which it alone can compute; Jittor compiles it again without."""
        plain(*args, **kwargs)
        if self._first_library is not None and self._of_jittor.cc:
            (command, output, jittor), self._first_library = self._first_library, None
            with contextlib.suppress(OSError, RuntimeError, ValueError):
                _write(_key_file(output), self._key(command, output, str(output.parent), str(jittor)))

    def _compile_first_library(self, command: str) -> None:
        compiler, *words = shlex.split(command)
        sources = [Path(word) for word in words if word.endswith(".cc")]
        flags, output = words[len(sources) : -2], Path(words[-1])
        if words[-2] != "-o" or not sources:
            raise ValueError(f"not a command of Jittor's: {command}")
        folder = self._scratch()
        made = [folder / f"{source.name}.o" for source in sources]
        fast = _less_optimized(_to_compile(flags))
        with ThreadPoolExecutor(self._cores) as pool:
            for _ in pool.map(lambda one, to: _run(compiler, *fast, one, "-c", "-o", to), sources, made):
                pass
        _run(compiler, *made, *flags, "-o", folder / output.name)
        _key_file(output).unlink(missing_ok=True)
        (folder / output.name).replace(output)
        self._first_library = (command, output, sources[0].parents[2])

    def _compiled(self, commands: list[str], cache: str, jittor: str, message: str) -> list[str]:
        """Compile objects and write their keys; the commands that are not for g++ or have failed."""
        found = [(command, self._object(command, cache, jittor)) for command in commands]
        left = [command for command, item in found if item is None]
        objects = [item for _, item in found if item is not None and not item.is_there]
        objects.sort(key=lambda item: item.weight, reverse=True)  # a long one at the end would keep one core alone busy
        for flags, number in Counter(item.flags for item in objects if item.reads_headers).items():
            if number >= _WORTH_HEADERS:
                self._begin_headers(flags)
        progress = _Progress(message, len(commands), len(objects), sum(item.weight for item in objects))
        with ThreadPoolExecutor(self._cores) as pool:
            waiting = {pool.submit(self._compile, item): item for item in objects}
            try:
                for future in as_completed(waiting):
                    progress.tell(waiting[future].weight)
                    if not future.result():
                        left.append(waiting[future].command)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return left

    def _object(self, command: str, cache: str, jittor: str) -> _Object | None:
        words = shlex.split(command)
        source, output = words[1], Path(words[-1])
        if (
            not command.startswith(self._compiler)
            or not source.endswith((".cc", ".cpp"))
            or words[-3:-1] != ["-c", "-o"]
        ):
            return None
        key = self._key(command, output, cache, jittor)
        flags = shlex.split(key.partition("\n")[0])[2:-2]  # to which Jittor may have added macros from the environment
        flags.remove("-c")
        return _Object(command, Path(source), output, _to_compile(flags), key)

    def _key(self, command: str, output: Path, cache: str, jittor: str) -> str:
        """What Jittor writes beside the output of a command: the command, and the hashes of what it reads.

        Jittor writes it after it has run the command; here that is one that does nothing, for another output.
        """
        elsewhere = self._scratch() / "output"
        end, stand_in = f' -o "{output}"', f' -o "{elsewhere}"'
        if not command.endswith(end):
            raise ValueError(f"not a command of Jittor's: {command}")
        words = command[len(self._compiler) : -len(end)]
        self._of_jittor.cc.cache_compile(f"true {words}{stand_in}", cache, jittor)
        line, _, hashes = _key_file(elsewhere).read_text().partition("\n")
        return f"{self._compiler}{line[len('true ') : -len(stand_in)]}{end}\n{hashes}"

    def _compile(self, item: _Object) -> bool:
        """Whether an object could be compiled."""
        header = self._headers[item.flags].result() if item.reads_headers and item.flags in self._headers else None
        including = () if header is None else ("-include", header)
        flags = _less_optimized(item.flags) if _NOT_IN_STEPS.search(str(item.source)) else item.flags
        fresh = self._scratch() / item.output.name
        try:
            _run(self._of_jittor.cc_path, item.source, *flags, *including, "-c", "-o", fresh)
            _key_file(item.output).unlink(missing_ok=True)  # a key never lies beside what it does not belong to
            fresh.replace(item.output)
            _write(_key_file(item.output), item.key)
        except (OSError, subprocess.SubprocessError):
            return False
        return True

    def _begin_headers(self, flags: tuple[str, ...]) -> None:
        """Compile the headers for files with these flags, while other things are done."""
        if flags not in self._headers:
            self._headers[flags] = self._beside.submit(self._compile_headers, flags, self._scratch())

    def _compile_headers(self, flags: tuple[str, ...], folder: Path) -> Path | None:
        header = folder / "core.h"
        try:
            header.write_text(_HEADERS)
            _run(self._of_jittor.cc_path, *flags, "-x", "c++-header", header, "-o", f"{header}.gch")
        except (OSError, subprocess.SubprocessError):
            return None
        return header

    def _scratch(self) -> Path:
        """A new folder in one of this process, on the file system of what will be moved from there."""
        if self._folder is None:
            parent = Path(self._of_jittor.cache_path) / "jboat"
            parent.mkdir(parents=True, exist_ok=True)
            for old in parent.glob(f"{_FOLDER}*"):  # of a process that was killed, since Jittor's lock admits one
                shutil.rmtree(old, ignore_errors=True)
            self._folder = Path(tempfile.mkdtemp(prefix=_FOLDER, dir=parent))
            atexit.register(shutil.rmtree, self._folder, ignore_errors=True)
        fresh = self._folder / str(next(self._numbers))
        fresh.mkdir()
        return fresh


class _Progress:
    """Says how far it is in Jittor's words, but with an estimate from the sizes of the files.

    Args:
        message: what Jittor says in front.
        total: the number of files.
        missing: how many of them are not there yet.
        weight: the weight of these together.
    """

    def __init__(self, message: str, total: int, missing: int, weight: int) -> None:
        self._message = message
        self._total = total
        self._done = total - missing
        self._left = self._all = weight
        self._begun = time.monotonic()

    def tell(self, weight: int) -> None:
        """One more file is there, of that weight."""
        self._done += 1
        self._left -= weight
        used = time.monotonic() - self._begun
        left = used * self._left / (self._all - self._left)
        sys.stdout.write(f"{self._message}({self._done}/{self._total}) used: {used:.3f}s eta: {left:.3f}s\n")
        sys.stdout.flush()


def _to_compile(flags: Sequence[str]) -> tuple[str, ...]:
    """Flags without those that concern linking and warnings, which Jittor throws away."""
    return tuple(flag for flag in flags if not _FOR_LINKING.fullmatch(flag) and not _WARNINGS.fullmatch(flag))


def _less_optimized(flags: tuple[str, ...]) -> tuple[str, ...]:
    return tuple("-O1" if flag == "-O2" else flag for flag in flags)


def _run(*command: str | Path) -> None:
    subprocess.run([str(word) for word in command] + ["-w"], check=True, capture_output=True, stdin=subprocess.DEVNULL)


def _key_file(output: Path) -> Path:
    return output.with_name(f"{output.name}.key")


def _write(path: Path, text: str) -> None:
    fresh = path.with_name(f"{path.name}.fresh")
    fresh.write_text(text)
    fresh.replace(path)
