"""How many tasks fit into the memory that is free."""

from __future__ import annotations

from pathlib import Path

from jboat.backend import ranks
import jittor as jt

_MAY_TAKE = 0.5  # of what is free, since the hypergradient needs some besides the lower steps' graphs
_BLOCK = 2 * 2**20  # bytes that Jittor takes at once, below which its memory cannot be told


def used() -> int:
    """The bytes that Jittor's arrays take on the device, up to a block of its memory."""
    jt.gc()  # else what it keeps for later counts
    info = jt.get_mem_info()
    return int(info.total_cuda_used if jt.flags.use_cuda else info.total_cpu_used)


def free() -> int:
    """The bytes that are free on the device; of the processor's memory this rank's share."""
    info = jt.get_mem_info()
    if jt.flags.use_cuda:
        return int(info.total_cuda_ram - info.total_cuda_used)
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024 // ranks.size()
    return int(info.total_cpu_ram // 2 // ranks.size())


def tasks_that_fit(bytes_a_task: int) -> int:
    """How many tasks may be computed together, at least one.

    Args:
        bytes_a_task: what the graphs of one task's lower steps take.
    """
    return max(1, int(_MAY_TAKE * free()) // max(_BLOCK, bytes_a_task))
