"""Whether nvcc runs, and with the C++ compiler that is here."""

from __future__ import annotations

from collections.abc import Mapping
import os
from pathlib import Path
import re
import subprocess
from typing import NamedTuple

_PATIENCE = 10.0  # seconds
_ALLOWED = "-allow-unsupported-compiler"
_OPTIONS = ("nvcc_flags", "NVCC_APPEND_FLAGS", "NVCC_PREPEND_FLAGS")


class Release(NamedTuple):
    """What a compiler says of its version.

    Attributes:
        version: major and minor version, or None where it tells none.
        problem: why it tells none, else empty.
    """

    version: tuple[int, int] | None
    problem: str


def release(nvcc: Path) -> Release:
    """Ask a compiler for its version, which may not run, hang, or be something else."""
    try:
        status, said = run([str(nvcc), "--version"])
    except subprocess.TimeoutExpired:
        return Release(None, f"{nvcc} does not answer within {_PATIENCE:.0f} seconds")
    except (OSError, ValueError) as error:
        return Release(None, str(error))
    found = re.search(r"release (\d+)\.(\d+)", said)
    if found is None:
        first = next(iter(said.strip().splitlines()), f"nothing, and ends with status {status}")
        return Release(None, f"asked for its version, {nvcc} says {first[:100]}")
    return Release((int(found[1]), int(found[2])), "")


def lacks(host_config: Path | None, environ: Mapping[str, str]) -> str | None:
    """What is missing where the toolkit refuses the g++ that is here, or None.

    Args:
        host_config: the toolkit's header that knows which compilers it takes.
        environ: the environment; ``cc_path`` names the compiler.
    """
    compiler = environ.get("cc_path") or "g++"
    if host_config is None or "g++" not in Path(compiler).name:
        return None
    if any(_ALLOWED in environ.get(name, "") for name in _OPTIONS):
        return None
    newest = re.search(r"#\s*if __GNUC__ > (\d+)", _text(host_config))
    if newest is None:
        return None
    try:
        major = re.match(r"\d+", run([compiler, "-dumpversion"], environ)[1])
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None  # which is told of elsewhere
    if major is None or int(major[0]) <= int(newest[1]):
        return None
    return f"a g++ of version {newest[1]} or older, named in cc_path (this one is {major[0]}, which nvcc refuses)"


def run(command: list[str], environ: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a compiler for what it says of itself; its exit status and what it wrote.

    Raises:
        OSError: if it does not start.
        subprocess.TimeoutExpired: if it does not end.
    """
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=_PATIENCE,
        env=None if environ is None else {**os.environ, **environ},
        check=False,
    )
    return done.returncode, done.stdout.decode(errors="replace")


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
