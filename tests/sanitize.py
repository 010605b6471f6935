"""The kernels of jboat/backend/cpu_ops under g++'s address and undefined-behaviour sanitizers (``make sanitize``).

sanitize.cc, a program without Python and Jittor, calls them on arrays of random shapes, exactly as large as they have
to be, and compares with plain loops in double precision. It is built three times: for this machine's processor, for
one with AVX2, and for one with neither, where every load of part of a vector is the compiler's own and watched.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
import os
from pathlib import Path
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile

from jboat.backend import cpu_ops, onednn
from jboat.backend.jittor_home import jittor_home

HERE = Path(__file__).parent
KERNELS = Path(cpu_ops.__file__).parent
PROCESSORS = ("native", "x86-64-v3", "x86-64")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
# what oneDNN keeps until the process ends is no leak; threads that wait leave the cores to others
ENVIRONMENT = {"ASAN_OPTIONS": "detect_leaks=0", "OMP_WAIT_POLICY": "passive"}


def missing(folder: Path) -> str | None:
    """Why a program with sanitizers cannot be built and run here, or None."""
    if shutil.which("g++") is None:
        return "there is no g++"
    if not (_onednn() / "include").is_dir():
        return "there is no oneDNN"
    source, program = folder / "nothing.cc", folder / "nothing"
    source.write_text("int main() { return 0; }\n")
    built = subprocess.run(["g++", *SANITIZERS, str(source), "-o", str(program)], capture_output=True, text=True)
    if built.returncode:
        return f"g++ has no sanitizers here: {built.stderr.strip()}"
    ran = _run([str(program)])
    return f"a program with sanitizers does not start here: {ran.stderr.strip()}" if ran.returncode else None


def build(
    folder: Path, processor: str = "native", *, optimized: str = "-O0", changed: Mapping[str, str] | None = None
) -> Path:
    """The program, compiled for a processor.

    Args:
        folder: where it goes. What was compiled there before, of the same sources, is not compiled again.
        processor: as g++'s ``-march`` calls it.
        optimized: g++'s option.
        changed: texts of kernels to take instead of the files in ``jboat/backend/cpu_ops``, by name.

    Raises:
        subprocess.CalledProcessError: if g++ refuses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    onednn = _onednn()
    flags = [
        "-std=c++14",
        optimized,
        "-g1",
        "-Wno-psabi",
        f"-march={processor}",
        "-fopenmp",
        *shlex.split(cpu_ops.FOR_VECTOR_CODE),
    ]
    flags += [*SANITIZERS, f"-I{KERNELS}", f"-I{onednn / 'include'}"]
    headers = "".join(path.read_text() for path in sorted(KERNELS.glob("*.h")))
    compilations, objects = [], []
    for source in (HERE / "sanitize.cc", *(KERNELS / f"{name}.cc" for name in cpu_ops.KERNELS)):
        text = (changed or {}).get(source.name, source.read_text())
        compiled, compiled_of = folder / f"{source.stem}.o", folder / f"{source.stem}.txt"
        made_of = "\n".join((*flags, headers, text))
        objects.append(str(compiled))
        if compiled.exists() and compiled_of.read_text() == made_of:
            continue
        compiled.unlink(missing_ok=True)
        compiled_of.write_text(made_of)
        copy = folder / source.name
        copy.write_text(text)
        compilations.append(subprocess.Popen(["g++", *flags, "-c", str(copy), "-o", str(compiled)]))
        if len(compilations) >= (os.cpu_count() or 1):
            _finished(compilations.pop(0))
    for compilation in compilations:
        _finished(compilation)
    program = folder / "sanitize"
    libraries = [f"-L{onednn / 'lib'}", "-lmkldnn", f"-Wl,-rpath,{onednn / 'lib'}"]
    subprocess.run(["g++", "-fopenmp", *SANITIZERS, *objects, *libraries, "-o", str(program)], check=True)
    return program


def run(program: Path, shapes: int, seed: int = 0) -> subprocess.CompletedProcess[str]:
    """The program on so many random shapes, which ends with another status than 0 where anything is wrong."""
    return _run([str(program), str(shapes), str(seed)])


def main() -> None:
    """Build and run all three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        reason = missing(Path(scratch))
    if reason:
        sys.exit(reason)
    for processor in PROCESSORS:
        program = build(HERE.parent / "build" / "sanitize" / processor, processor, optimized="-O2")
        done = run(program, args.shapes, args.seed)
        sys.stdout.write(f"{processor}: {done.stdout}{done.stderr}")
        sys.stdout.flush()
        if done.returncode:
            sys.exit(f"{processor}: wrong; again with {program} {args.shapes} {args.seed}")


def _onednn() -> Path:
    return onednn.folder(jittor_home())


def _finished(compilation: subprocess.Popen[bytes]) -> None:
    if compilation.wait():
        raise subprocess.CalledProcessError(compilation.returncode, compilation.args)


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    by_shell = [
        "sh",
        "-c",
        '"$0" "$@"; exit $?',
        *command,
    ]  # Jittor ends a process one of whose own children was killed
    return subprocess.run(
        by_shell, capture_output=True, text=True, env=os.environ | ENVIRONMENT, preexec_fn=_all_addresses, check=False
    )


def _all_addresses() -> None:
    """Sanitizers reserve more addresses than any machine has memory, which a soft limit would deny them."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    main()
