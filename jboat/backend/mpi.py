"""OpenMPI, by which Jittor's processes speak to each other: what there is of it, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
import logging
import os
import shutil
import sys
import time

PACKAGES = "openmpi-bin libopenmpi-dev"
INSTALL = f"apt-get install {PACKAGES}"
_SIZE, _RANK = "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"


def compiler(environ: Mapping[str, str] = os.environ) -> str | None:
    """The program that Jittor compiles its MPI part with, or None."""
    return shutil.which(environ.get("mpicc_path") or "mpicc")


def lacks(environ: Mapping[str, str] = os.environ) -> str:
    """Why Jittor has no MPI, in words; empty where it has."""
    if environ.get("use_mpi", "1") != "1":
        return "Jittor is started without its MPI part (use_mpi=0), as it has to be with CUDA 13"
    if compiler(environ) is None:
        return f"Jittor cannot compile its MPI part: there is no mpicc. Mend it: {INSTALL}"
    return ""


def require(environ: MutableMapping[str, str]) -> None:
    """Before Jittor's import: end a program that ``mpirun`` has started several times where Jittor has no MPI.

    Jittor's import would end in an AttributeError. A single process forgets that it was started by ``mpirun``.

    Args:
        environ: the environment.

    Raises:
        RuntimeError: in the process of rank 0.
        SystemExit: in the others, a while later.
    """
    if _SIZE not in environ or not (why := lacks(environ)):
        return
    if environ[_SIZE] == "1":
        del environ[_SIZE]
        return
    if environ.get(_RANK, "0") != "0":
        logging.disable(logging.CRITICAL)
        time.sleep(5.0)  # mpirun ends all when the first one ends: let rank 0 speak
        sys.exit(1)
    raise RuntimeError(f"mpirun has started {environ[_SIZE]} processes, but {why}")
