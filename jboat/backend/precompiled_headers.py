"""Compile the headers that all of Jittor's kernels include once, instead of with every kernel.

Most of the time that g++ takes for a kernel goes into reading headers. A precompiled header, named on the command line,
saves that; the machine code stays the same. Where g++ cannot use it, it reads the header itself. Jittor also asks for
debug information, for line numbers; that of the headers' types is left out, since it is most of a kernel's files.
"""

from __future__ import annotations

import logging
from pathlib import Path
import shlex
import subprocess
import tempfile
from typing import Any

logger = logging.getLogger("jboat")

_TEXT = """\
#define JIT 1
#define JIT_cpu 1
#include <algorithm>
#include <cmath>
#include "fused_op.h"
#include "op.h"
#include "ops/op_register.h"
#include "var.h"
"""
_LESS_DEBUG = "-femit-struct-debug-baseonly"
_LINKING = ("-l", "-L", "-Wl,", "-shared")


def use(jt: Any) -> None:
    """Let kernels be compiled with the precompiled header, which is made where it is missing.

    Nothing changes with another compiler than g++, with CUDA, or where the header cannot be made.

    Args:
        jt: the imported Jittor.
    """
    if jt.has_cuda or jt.flags.cc_type != "g++" or "-include" in jt.flags.cc_flags:
        return
    flags = [flag for flag in shlex.split(jt.flags.cc_flags) if not flag.startswith(_LINKING)]
    command = [jt.flags.cc_path, *flags, _LESS_DEBUG, "-g", "-x", "c++-header"]  # kernels are compiled with -g
    header = Path(jt.flags.cache_path) / "jboat" / "kernels.h"
    try:
        make(header, command)
    except (OSError, subprocess.SubprocessError) as error:
        logger.debug("kernels are compiled without a precompiled header: %s", error)
        return
    jt.flags.cc_flags += f' {_LESS_DEBUG} -include "{header}" '


def make(header: Path, command: list[str]) -> None:
    """Write the header and compile it, unless that has been done with the same command.

    Raises:
        OSError: if it cannot be written.
        subprocess.SubprocessError: if it cannot be compiled.
    """
    text = f"// {shlex.join(command)}\n{_TEXT}"
    compiled = header.with_name(header.name + ".gch")
    if compiled.exists() and header.read_text() == text:
        return
    header.parent.mkdir(parents=True, exist_ok=True)
    compiled.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=header.parent) as scratch:
        fresh = Path(scratch) / header.name
        fresh.write_text(text)
        subprocess.run([*command, str(fresh), "-o", f"{fresh}.gch"], check=True, capture_output=True)
        fresh.replace(header)
        Path(f"{fresh}.gch").replace(compiled)
