"""How much memory there is to be had, and how much of it is held."""

from __future__ import annotations

import ctypes
import math
import mmap
import os
from pathlib import Path
import re

from jboat.backend import cuda_driver, ranks
import jittor as jt
import numpy as np

_VAR = re.compile(r"Var\(.*?,(?P<dtype>\w+),.*,(?P<place>[0-9a-f]+)\)\[(?P<shape>[\d,]*)\]")
"""How Jittor prints a Var, with where it lies, 0 where it is not computed."""

_STATM = Path("/proc/self/statm")
_RANKS_HERE = "OMPI_COMM_WORLD_LOCAL_SIZE"
_MEMINFO, _CGROUPS, _OWN_CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def held() -> int:
    """What all Vars of this process that are computed hold, in bytes.

    Jittor itself counts blocks of some megabytes, in which a small step finds room.
    """
    found = {}
    for node in jt.dump_all_graphs().nodes_info:
        var = _VAR.match(node)
        if var is not None and int(var["place"], 16):
            numbers = math.prod(int(n) for n in var["shape"].split(",") if n)
            found[var["place"]] = numbers * (2 if var["dtype"] == "bfloat16" else np.dtype(var["dtype"]).itemsize)
    return sum(found.values())


def free() -> int | None:
    """What may still be allocated on the device at work, in bytes; None where nobody says.

    On a GPU it is what the driver has left, which is without what other programs use, divided by the ranks that Jittor
    has put on the same one. On a CPU it is what the system has available, or less under the limit of a control group,
    divided by the ranks, which are taken to share it.
    """
    if jt.flags.use_cuda:
        left = _of_gpu()
        return None if left is None else left // _ranks_on_the_gpu()
    limits = [left for left in (_of_system(), *_of_cgroups()) if left is not None]
    return min(limits) // ranks.size() if limits else None


def _of_gpu() -> int | None:
    """What the driver has left or, where it does not say, the GPU's memory without what Jittor has taken of it."""
    jt.gc()  # by which the driver gets back what Jittor holds and does not use
    info = jt.get_mem_info()  # which asks CUDA, so that the driver then knows which GPU this thread means
    left = cuda_driver.free_memory()
    if left is None and info.total_cuda_ram > 0:
        left = max(0, int(info.total_cuda_ram) - int(info.total_cuda_used))
    return left


def _ranks_on_the_gpu() -> int:
    """How many ranks compute on this one: those of the machine, which with NCCL alone spread over its GPUs."""
    here = int(os.environ.get(_RANKS_HERE, ranks.size()))
    gpus = jt.get_device_count() if jt.compile_extern.nccl_ops is not None else 1
    return -(-here // max(1, gpus))


def give_back() -> None:
    """Give the system what the C library holds in reserve, between what is in use.

    What oneDNN and the like need for a moment leaves gaps there, which grow with the number of calls.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(ctypes.c_size_t(0))


class Returns:
    """Gives memory back after every step that leaves much, and after every tenth where steps leave little."""

    _WORTH = 256 * 1024
    """From how many bytes on a call pays, which takes about a millisecond."""
    _RARELY = 10

    def __init__(self) -> None:
        self._wait = self._waited = 0

    def after_step(self) -> None:
        """:func:`give_back`, unless it gave little lately."""
        self._waited += 1
        if self._waited < self._wait:
            return
        before = _resident()
        give_back()
        self._wait = 1 if before - _resident() >= self._WORTH else self._RARELY
        self._waited = 0


def _resident() -> int:
    """How many bytes of this process lie in memory; 0 where nobody says so."""
    for line in _lines(_STATM):
        return int(line.split()[1]) * mmap.PAGESIZE
    return 0


def _of_system() -> int | None:
    """``MemAvailable``."""
    for line in _lines(_MEMINFO):
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024
    return None


def _of_cgroups() -> list[int]:
    """What the control groups that this process is in leave it, of both versions."""
    found = []
    for line in _lines(_OWN_CGROUP):
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory") and "memory" not in controllers.split(","):
            continue
        root, limit, usage, cache = (
            (_CGROUPS, "memory.max", "memory.current", "inactive_file")
            if not controllers
            else (_CGROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        )
        folder = root / path.strip("/")
        # in a container the path may be the host's, and the folder above it the container's own
        for place in (folder, *folder.parents):
            left = _left(place, limit, usage, cache)
            if left is not None:
                found.append(left)
            if place == root:
                break
    return found


def _left(folder: Path, limit: str, usage: str, cache: str) -> int | None:
    """What a control group leaves; None where it has no limit, or cannot be read."""
    most, used = (next(iter(_lines(folder / name)), "") for name in (limit, usage))
    if not most.isdigit() or not used.isdigit():
        return None
    names = dict(line.split(" ", 1) for line in _lines(folder / "memory.stat") if " " in line)
    reclaimable = int(names.get(cache, 0))
    return max(0, int(most) - int(used) + reclaimable)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
