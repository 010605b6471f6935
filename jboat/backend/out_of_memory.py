"""How Jittor says that the GPU's memory does not suffice."""

from __future__ import annotations

import re

import jittor as jt

_SAYS_SO = re.compile(r"Unable to alloc cuda|out of memory|ALLOC_FAILED|cudaErrorMemoryAllocation", re.IGNORECASE)


def told_by(error: BaseException) -> str | None:
    """The line of an error that says so; None for another error, and where nothing runs on a GPU."""
    if not isinstance(error, RuntimeError) or not _runs_on_gpu():
        return None
    return next((line.strip() for line in str(error).splitlines() if _SAYS_SO.search(line)), None)


def _runs_on_gpu() -> bool:
    return bool(jt.flags.use_cuda)
