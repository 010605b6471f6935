"""How many kernels a program needs."""

from __future__ import annotations

import os
from pathlib import Path

import jittor as jt


def kernels() -> int:
    """Kernels that this process has loaded: what a run with an empty cache would have compiled."""
    folder = os.path.join(jt.flags.cache_path, "jit", "")  # not jit_utils_core, a library that lies beside it
    lines = Path("/proc/self/maps").read_text().splitlines()
    return len({line.split()[-1] for line in lines if folder in line and line.endswith(".so")})
