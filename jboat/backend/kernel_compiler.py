"""Let kernels be compiled without a start of Python for each.

Jittor compiles a kernel by a program in Python, ``asm_tuner.py``, which is to rewrite the assembly of a few sources.
Its start is a third of a kernel's processor time. With g++ from 11 on, whose DWARF 5 counts files in another way, it
finds no line of any source and rewrites nothing; then ``compile_kernel.sh`` gives the same machine code.
"""

from __future__ import annotations

from pathlib import Path
import re
import shlex
import shutil
import sys
from typing import Any

_SCRIPT = Path(__file__).with_name("compile_kernel.sh")
_FIRST_WITH_DWARF_5 = 11


def use(jt: Any) -> None:
    """Put the script in the place of the Python that Jittor starts, with such a g++ on Linux.

    Args:
        jt: the imported Jittor.
    """
    shell, python = shutil.which("sh"), jt.flags.python_path
    compiler = re.search(r"/g\+\+(\d+)\.", jt.flags.cache_path)  # where Jittor notes its version
    if compiler is None or int(compiler[1]) < _FIRST_WITH_DWARF_5 or jt.flags.cc_type != "g++":
        return
    if sys.platform != "linux" or shell is None or _SCRIPT.name in python:
        return
    if {"'", '"'} & {*str(_SCRIPT), *python}:  # Jittor reads the command itself, and takes such paths apart
        return
    jt.flags.python_path = f"{shell} {shlex.quote(str(_SCRIPT))} --python={shlex.quote(python)}"
