#!/usr/bin/env python3
"""In place of nvcc: makes a kernel's library with a function that does nothing, so that kernels are counted in no time.

It is called as Jittor calls nvcc for a kernel: the source, flags, and -o with the library.
"""

import re
import subprocess
import sys

arguments = sys.argv[1:]
source = next(argument for argument in arguments if argument.endswith("_op.cc"))
with open(source) as file:
    runs = re.search(r"void\s+(?:jittor::)?(\w+)::jit_run\(\)", file.read())
assert runs, f"{source} has no jit_run"
text = f"namespace jittor {{ struct {runs[1]} {{ void jit_run(); }}; void {runs[1]}::jit_run() {{}} }}"
command = ["g++", "-x", "c++", "-", "-shared", "-fPIC", "-o", arguments[arguments.index("-o") + 1]]
sys.exit(subprocess.run(command, input=text, text=True, check=False).returncode)
