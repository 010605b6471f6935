"""How many kernels a program needs, and how much of the GPU's memory."""

from __future__ import annotations

import os
from pathlib import Path

import jittor as jt


def kernels() -> int:
    """Kernels that this process has loaded: what a run with an empty cache would have compiled."""
    folder = os.path.join(jt.flags.cache_path, "jit", "")  # not jit_utils_core, a library that lies beside it
    lines = Path("/proc/self/maps").read_text().splitlines()
    return len({line.split()[-1] for line in lines if folder in line and line.endswith(".so")})


def gpu_memory() -> int:
    """Bytes that Jittor's pools have taken from the GPU; they give nothing back, so that this is the most there was."""
    return int(jt.get_mem_info().total_cuda_used)
