"""A CUDA toolkit whose compiler and headers are real, and whose libraries launch nothing.

With it, and with the stub of a driver, Jittor starts with CUDA on a machine that has no GPU, compiles every kernel with
nvcc and loads it. Every number that a kernel should have computed is garbage. What a library exports is read from the
real one: functions that matter are written out in the C sources beside this file, and all others return 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
import hashlib
import json
import os
from pathlib import Path
import re
import shutil
import subprocess
import tempfile
from typing import NamedTuple

HERE = Path(__file__).parent
SOURCES = ("stub.h", "driver.c", "runtime.c", "handles.c")
NEEDED = ("cudart", "cublas", "cublasLt", "curand")
OPTIONAL = (
    "cufft",
    "cusparse",
    "cudnn",
    *(f"cudnn_{part}" for part in ("graph", "ops", "cnn", "adv")),  # of cuDNN 9, and for 8:
    *(f"cudnn_{part}_{half}" for part in ("ops", "cnn", "adv") for half in ("infer", "train")),
)
HEADERS = ("cuda.h", "cuda_runtime.h", "cublas_v2.h", "curand.h")
_FOLDERS = ("/usr/local/cuda", "/opt/cuda")
_SYSTEM_LIBRARIES = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu")
_HANDWRITTEN = re.compile(r"^(?:EXPORT [\w ]+?\**|(?:GIVES|FINDS|NEEDS)_\w+\()(\w+)[()]", re.MULTILINE)


class CannotBuildError(RuntimeError):
    """What there is of CUDA does not suffice; says what is missing."""


class Parts(NamedTuple):
    """Where the real toolkit lies."""

    home: Path
    version: int  # as in cuda.h: 13000 is 13.0
    includes: tuple[Path, ...]  # the first goes before the others
    libraries: Mapping[str, Path]


def find(site: Path, environ: Mapping[str, str] = os.environ) -> Parts:
    """The compiler, the headers, and the libraries to imitate.

    Args:
        site: the site-packages folder that may hold NVIDIA's wheels.
        environ: the environment.

    Raises:
        CannotBuildError: if something is missing.
    """
    if not shutil.which("gcc") or not shutil.which("nm"):
        raise CannotBuildError("no gcc with binutils")
    homes = [home for home in _homes(site, environ) if (home / "bin" / "nvcc").is_file()]
    if not homes:
        raise CannotBuildError("no nvcc: no wheel with it, none in CUDA_HOME, on the PATH or in /usr/local/cuda")
    lacking_by_home: dict[Path, list[str]] = {}
    for home in homes:
        version = _version([home, *_wheels(site)])
        folders = list(dict.fromkeys([home, *_wheels(site, version // 1000)]))
        includes = tuple(p for f in folders for p in (f / "include", *f.glob("targets/*/include")) if p.is_dir())
        places = [p for f in folders for p in (f / "lib64", f / "lib", *f.glob("targets/*/lib"))]
        libraries = {name: path for name in (*NEEDED, *OPTIONAL) if (path := _library(name, places))}
        lacking = [f"lib{name}.so" for name in NEEDED if name not in libraries]
        lacking += [header for header in HEADERS if not any((p / header).is_file() for p in includes)]
        if not lacking:
            return Parts(home, version, includes, libraries)
        lacking_by_home[home] = lacking
    nearest = min(lacking_by_home, key=lambda home: len(lacking_by_home[home]))
    raise CannotBuildError(f"{nearest} has nvcc, but not {', '.join(lacking_by_home[nearest])}")


def build(target: Path, parts: Parts) -> None:
    """Make ``target/toolkit``, a CUDA home, and ``target/driver``, the folder for LD_LIBRARY_PATH.

    Nothing is done where both were made from the same sources and parts before.
    """
    sources = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in SOURCES)).hexdigest()
    fingerprint = json.dumps([sources, repr(parts)])
    stamp = target / "stubs.json"
    if stamp.is_file() and stamp.read_text() == fingerprint:
        return
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target) as scratch:
        toolkit, driver = Path(scratch) / "toolkit", Path(scratch) / "driver"
        _build_toolkit(toolkit, parts)
        driver.mkdir()
        _compile([HERE / "driver.c"], driver / "libcuda.so.1", [f"-DSTUB_VERSION={parts.version}"])
        (driver / "libcuda.so").symlink_to("libcuda.so.1")
        for fresh in (toolkit, driver):
            shutil.rmtree(target / fresh.name, ignore_errors=True)
            fresh.replace(target / fresh.name)
    stamp.write_text(fingerprint)


def environment(target: Path, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment in which jboat finds what :func:`build` made."""
    driver = str(target / "driver")
    behind = environ.get("LD_LIBRARY_PATH")
    return {
        **environ,
        "CUDA_HOME": str(target / "toolkit"),
        "LD_LIBRARY_PATH": f"{driver}:{behind}" if behind else driver,
    }


def _homes(site: Path, environ: Mapping[str, str]) -> Iterator[Path]:
    yield from sorted((site / "nvidia").glob("cu[0-9]*"), reverse=True)
    if environ.get("CUDA_HOME"):
        yield Path(environ["CUDA_HOME"])
    on_path = shutil.which("nvcc", path=environ.get("PATH"))
    if on_path:
        yield Path(on_path).resolve().parent.parent
    yield from map(Path, _FOLDERS)


def _wheels(site: Path, major: int | None = None) -> list[Path]:
    """The folders of NVIDIA's wheels, without another version's: ``nvidia/cu13``, ``nvidia/cudnn``, ..."""
    folders = [p for p in sorted((site / "nvidia").glob("*")) if p.is_dir()]
    return [p for p in folders if major is None or not re.fullmatch(r"cu\d+", p.name) or p.name == f"cu{major}"]


def _version(folders: Iterable[Path]) -> int:
    """CUDA's version, or 0 without a header that tells."""
    for folder in folders:
        for header in (folder / "include" / "cuda.h", *folder.glob("targets/*/include/cuda.h")):
            found = re.search(r"#define\s+CUDA_VERSION\s+(\d+)", header.read_text()) if header.is_file() else None
            if found:
                return int(found[1])
    return 0


def _library(name: str, places: Iterable[Path]) -> Path | None:
    """The real library, found under its own name or with a version behind it."""
    for place in (*places, *map(Path, _SYSTEM_LIBRARIES)):
        found = sorted(place.glob(f"lib{name}.so*"), key=lambda path: len(path.name))
        if found:
            return found[0]
    return None


def _build_toolkit(toolkit: Path, parts: Parts) -> None:
    include, lib64 = toolkit / "include", toolkit / "lib64"
    include.mkdir(parents=True)
    lib64.mkdir()
    for name in ("bin", "nvvm"):
        if (parts.home / name).is_dir():
            (toolkit / name).symlink_to((parts.home / name).resolve())
    for folder in parts.includes:
        for entry in sorted(folder.iterdir()):
            if not (include / entry.name).is_symlink():
                (include / entry.name).symlink_to(entry.resolve())
    for archive in ("libcudadevrt.a", "libcudart_static.a"):  # which nvcc links, whether they are used or not
        for place in (parts.home / "lib64", parts.home / "lib", *parts.home.glob("targets/*/lib")):
            if (place / archive).is_file() and not (lib64 / archive).is_symlink():
                (lib64 / archive).symlink_to((place / archive).resolve())
    for name, real in parts.libraries.items():
        _build_library(name, real, parts, lib64)
    for folder in (include, lib64):  # jboat takes folders of another time for another CUDA, and the core is built anew
        os.utime(folder, (0, 0))


def _build_library(name: str, real: Path, parts: Parts, lib64: Path) -> None:
    soname = _soname(real)
    handwritten = HERE / ("runtime.c" if name == "cudart" else "handles.c")
    written = set(_HANDWRITTEN.findall(handwritten.read_text()))
    others = [function for function in _functions(real) if function not in written]
    flags = [f"-DSTUB_VERSION={parts.version}", *(f"-I{folder}" for folder in parts.includes)]
    if name != "cudart":  # where stub_note is
        flags += [f"-L{lib64}", "-lcudart"]
    with tempfile.TemporaryDirectory() as scratch:
        generic = Path(scratch) / "generic.c"
        bodies = (f'EXPORT long {function}(void) {{ stub_note("{function}"); return 0; }}\n' for function in others)
        generic.write_text('#include "stub.h"\n' + "".join(bodies))
        _compile([handwritten, generic], lib64 / soname, flags)
    if soname != f"lib{name}.so":
        (lib64 / f"lib{name}.so").symlink_to(soname)


def _soname(library: Path) -> str:
    lines = _run(["readelf", "-d", str(library)])
    found = re.search(r"\(SONAME\).*\[(.+)\]", lines)
    return found[1] if found else library.name


def _functions(library: Path) -> list[str]:
    """What the library exports to C."""
    lines = (line.split() for line in _run(["nm", "-D", "--defined-only", str(library)]).splitlines())
    names = {fields[2].split("@")[0] for fields in lines if len(fields) == 3 and fields[1] in "TtWi"}
    return sorted(name for name in names if not name.startswith("_Z") and name not in ("_init", "_fini"))


def _compile(sources: list[Path], library: Path, flags: list[str]) -> None:
    command = ["gcc", "-shared", "-fPIC", "-O1", "-w", f"-Wl,-soname,{library.name}", f"-I{HERE}"]
    _run([*command, *map(str, sources), "-o", str(library), *flags])


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotBuildError(f"{' '.join(command[:2])} ... failed: {done.stderr.strip()[:2000]}")
    return done.stdout
