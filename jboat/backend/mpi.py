"""OpenMPI, by which Jittor's processes speak to each other: what there is of it, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
import logging
import os
import shutil
import subprocess
import sys
import time

logger = logging.getLogger("jboat")

INSTALL = "apt-get install openmpi-bin libopenmpi-dev"
_SECONDS = 120
_TRIAL = """
import jboat
from jboat.backend import ranks
assert ranks.gathered([ranks.rank()]) == [[0.0], [1.0]]
"""
_SIZE, _RANK = "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"


def compiler(environ: Mapping[str, str] = os.environ) -> str | None:
    """The program that Jittor compiles its MPI part with, or None; an empty ``mpicc_path`` names none."""
    return shutil.which(environ.get("mpicc_path", "mpicc"))


def is_off(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether Jittor is started without its MPI part."""
    return environ.get("use_mpi", "1") != "1"


def lacks(environ: Mapping[str, str] = os.environ) -> str:
    """Why Jittor has no MPI, in words; empty where it has."""
    if is_off(environ):
        return "Jittor is started without its MPI part (use_mpi=0), as jboat does with CUDA 13"
    return "" if compiler(environ) else "Jittor cannot compile its MPI part, since there is no mpicc"


def tried(launcher: str) -> str:
    """Let two processes tell each other their numbers; the end of what they said where that fails, else nothing."""
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    command = [launcher, *root, "--oversubscribe", "-np", "2", sys.executable, "-c", _TRIAL]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else "\n".join([*done.stdout.splitlines(), *done.stderr.splitlines()][-8:])


def require(environ: MutableMapping[str, str]) -> None:
    """Before Jittor's import: end a program that ``mpirun`` has started several times where Jittor has no MPI.

    Jittor's import would end in an AttributeError. A single process forgets that it was started by ``mpirun``.

    Args:
        environ: the environment.

    Raises:
        RuntimeError: in the process of rank 0.
        SystemExit: in the others, a while later.
    """
    if _SIZE not in environ and environ.get("PMI_SIZE", "1") != "1" and environ.get("PMI_RANK", "0") == "0":
        logger.warning(
            "%s processes were started, but not by OpenMPI's mpirun, which alone Jittor knows: each trains by itself",
            environ["PMI_SIZE"],
        )
    if _SIZE not in environ or not (why := lacks(environ)):
        return
    if environ[_SIZE] == "1":
        del environ[_SIZE]
        return
    if environ.get(_RANK, "0") != "0":
        logging.disable(logging.CRITICAL)
        time.sleep(5.0)  # mpirun ends all when the first one ends: let rank 0 speak
        sys.exit(1)
    fix = "" if is_off(environ) else f". Fix it: {INSTALL}"
    raise RuntimeError(f"mpirun has started {environ[_SIZE]} processes, but {why}{fix}")
