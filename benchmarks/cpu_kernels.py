"""From how much work on jboat's kernels for CPUs are faster on two cores, and what it costs ReLU to keep NaN.

Each kernel runs with every loop shared, whatever threads.h says, on one core and on two in turn; the least times of 60.
They follow one another at once, so that the second core need not be woken: in a program it has to be, and the
thresholds in threads.h are higher. Then ReLU and its derivative, on one core, beside what they were without the rule.
"""

from __future__ import annotations

import argparse
from pathlib import Path
import shlex
import shutil
import subprocess
import tempfile

from jboat.backend import cpu_ops

KERNELS = ("cross_entropy", "linear_algebra", "rectify", "sums", "thin_product")
SCRATCH = """\
#include <cstdlib>

#include "scratch.h"

namespace jboat {

Scratch::Scratch(size_t wanted) : bytes(wanted), memory(malloc(wanted)) {}
Scratch::~Scratch() { free(memory); }

} // namespace jboat
"""
WITHOUT_NAN = {
    "x[i] <= 0 ? 0.f : x[i]": "x[i] > 0 ? x[i] : 0.f",
    "y[i] > 0 ? z[i] : y[i]": "y[i] > 0 ? z[i] : 0.f",
    "namespace jboat {": "namespace without_nan { using namespace jboat;",
}


def main() -> None:
    """Build and run the program, which prints tables in Markdown."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    source = Path(cpu_ops.__file__).parent
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for path in (*source.glob("*.h"), *(source / f"{name}.cc" for name in KERNELS)):
            shutil.copy(path, folder)
        shutil.copy(Path(__file__).with_suffix(".cc"), folder)
        (folder / "scratch.cc").write_text(SCRATCH)
        _rewrite(folder / "threads.h", folder / "threads.h", {"return passes > enough;": "return true;"})
        _rewrite(folder / "rectify.cc", folder / "without_nan.cc", WITHOUT_NAN)
        flags = shlex.split(f"-std=c++14 -O2 -march=native -fopenmp {cpu_ops.FOR_VECTOR_CODE}")
        sources = [str(path) for path in folder.glob("*.cc")]
        program = str(folder / "cpu_kernels")
        subprocess.run(["g++", *flags, *sources, "-o", program], check=True)
        subprocess.run([program], check=True)


def _rewrite(source: Path, target: Path, changes: dict[str, str]) -> None:
    text = source.read_text()
    for before, after in changes.items():
        if before not in text:
            raise ValueError(f"{source.name} has no {before!r} any more")
        text = text.replace(before, after)
    target.write_text(text)


if __name__ == "__main__":
    main()
