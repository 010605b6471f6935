"""Let kernels be compiled without a start of Python for each.

Jittor compiles a kernel by a program in Python, ``asm_tuner.py``, which is to rewrite the assembly of a few sources.
Its start is a third of a kernel's processor time. With g++ from 11 on, whose DWARF 5 counts files in another way, it
finds no line of any source and rewrites nothing; then ``compile_kernel.sh`` gives the same machine code.

A quarter of the rest is linking: g++ reads the symbols of its own library, OpenMP's and Jittor's for each kernel, to
note that it needs what the process that loads it has loaded for all. The mathematical library is linked still, whose
functions have several versions.
"""

from __future__ import annotations

from collections.abc import Sequence
import ctypes
import os
from pathlib import Path
import re
import shlex
import sys
from typing import Any

_SCRIPT = Path(__file__).with_name("compile_kernel.sh")
_SHELL = "/bin/sh"  # which runs the command too, whatever the PATH is
_FIRST_WITH_DWARF_5 = 11
_OF_EACH_LIBRARY = ("_ZNSt8ios_base4InitC1Ev", "_Unwind_Resume", "GOMP_parallel", "_ZTVN6jittor7FusedOpE")
"""A symbol of each library that kernels need, which is not linked where it is there for all that is loaded."""


def use(jt: Any) -> None:
    """Put the script in the place of the Python that Jittor starts, with such a g++ on Linux.

    The command is a part of each kernel's key: it is the same whatever the PATH is, and for all names of one Python.

    Args:
        jt: the imported Jittor.
    """
    given = jt.flags.python_path
    if _SCRIPT.name in given:
        return
    python = os.path.realpath(given)
    compiler = re.search(r"/g\+\+(\d+)\.", jt.flags.cache_path)  # where Jittor notes its version
    if compiler is None or int(compiler[1]) < _FIRST_WITH_DWARF_5 or jt.flags.cc_type != "g++":
        return
    if sys.platform != "linux":
        return
    if {"'", '"'} & {*str(_SCRIPT), *python}:  # Jittor reads the command itself, and takes such paths apart
        return
    libraries = "few" if _are_loaded_for_all(_OF_EACH_LIBRARY) and "-z" not in jt.flags.cc_flags else "all"
    script = f"{_SHELL} {shlex.quote(str(_SCRIPT))}"
    jt.flags.python_path = f"{script} --python={shlex.quote(python)} --libraries={libraries}"


def _are_loaded_for_all(symbols: Sequence[str]) -> bool:
    process = ctypes.CDLL(None)
    return all(hasattr(process, symbol) for symbol in symbols)
