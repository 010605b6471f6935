"""Let nvcc compile Jittor's kernels in less time.

Nearly all of a kernel's compilation is reading headers, three times: for the device, for the host, and by g++. Two
things shorten it by a fifth. The C++ of 2020 is needed to compile Jittor's core with CUDA 13, and its kernels are
content with that of 2017, whose standard headers are shorter. And every kernel includes the headers of float16 and
bfloat16 for one class, which the header in the folder ``kernel_headers`` leaves out.
"""

from __future__ import annotations

import logging
from pathlib import Path
import tempfile
from typing import Any

logger = logging.getLogger("jboat")

HEADERS = Path(__file__).with_name("kernel_headers")
_NEW, _OLD = "-std=c++20", "-std=c++17"


def use(jt: Any) -> None:
    """Let CUDA kernels be compiled so; nothing changes without CUDA.

    Args:
        jt: the imported Jittor.
    """
    if not jt.has_cuda:
        return
    folder = Path(jt.flags.cache_path) / "jboat" / HEADERS.name
    try:
        _copy(folder)
    except OSError as error:
        logger.debug("kernels are compiled with Jittor's own headers: %s", error)
        return
    flags = jt.flags.nvcc_flags.replace(_NEW, _OLD)
    jt.flags.nvcc_flags = f' -I"{folder}" {flags}'


def _copy(folder: Path) -> None:
    """The headers in the cache, since their path is part of the command that a compiled kernel is known by."""
    for source in HEADERS.rglob("*.h"):
        target = folder / source.relative_to(HEADERS)
        text = source.read_text()
        if target.is_file() and target.read_text() == text:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:  # two processes may do this at once
            fresh = Path(scratch) / target.name
            fresh.write_text(text)
            fresh.replace(target)
