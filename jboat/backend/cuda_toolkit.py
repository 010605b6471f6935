"""Find a CUDA that Jittor can start with, and what Jittor has to be told about it.

Jittor's import crashes, aborts or downloads where a part is missing, so that everything is looked for before it starts.
Parts that a toolkit lacks may come from NVIDIA's wheels of the same major version; :mod:`jboat.backend.cuda_home` then
makes one folder of both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from os.path import isdir, isfile  # pathlib's own raise where a folder must not be entered
from pathlib import Path
import re
import shutil
import sys
from typing import NamedTuple

from jboat.backend import cuda_compiler, cuda_driver

DOWNLOADS = ("cutt", "cutlass", "nccl")
_FOLDERS = ("/usr/local/cuda", "/opt/cuda", "/usr/lib/nvidia-cuda-toolkit")  # the last is Debian's and Ubuntu's
SYSTEM_LIBRARIES = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib")
_HEADERS = ("/usr/include",)
_REQUIRED = ("cudart", "cublas", "curand")
_WITH_CUDNN = ("cudnn", "cufft", "cusparse")  # Jittor asks for all three or for none
_HEADER = {"cudart": "cuda_runtime.h"}
_COMPILER_HEADERS = {"CCCL": "cub/cub.cuh", "CRT": "crt/host_runtime.h"}
_CICC = ("nvvm/bin/cicc", "bin/cicc")  # nvcc calls it for every kernel; the second is Debian's and Ubuntu's place
PARTS = ("nvcc", "NVVM", *_REQUIRED, *_COMPILER_HEADERS, *_WITH_CUDNN)
_CUDNN_OF_CUDA = {8: (11, 12), 9: (11, 12, 13)}  # by NVIDIA's lists of what each was built for
_NEWEST_CAPABILITIES = {(11, 8): 90, (11, 1): 86, (0, 0): 80}  # of Jittor 1.3.11, from a version of CUDA on
# cudaDeviceProp has lost two fields in CUDA 13, and its CUB wants a newer C++
_CC_FLAGS_13 = " -std=c++20 -DclockRate=multiProcessorCount -DcomputeMode=integrated "


class CudaToolkit(NamedTuple):
    """What was found of CUDA; it is usable when ``missing`` is empty.

    Attributes:
        nvcc: the compiler, or None.
        missing: what Jittor cannot start without.
        version: major and minor version, or None where nothing tells.
        absent: optional parts that are not there: ``cutt``, ``cutlass``, ``nccl``, ``cudnn``, ``cufft``, ``cusparse``.
        parts: the parts that were found, each with its library or header.
        folders: what has to be joined in one home for Jittor, the toolkit first; empty where Jittor can use the toolkit
            as it lies.
        remarks: sentences about what was found and cannot be used.
        cudnn_headers: the folder with the headers of the cuDNN that is used.
        newest_capability: the highest compute capability of a device, such as 90 for 9.0; None where it is not known.
        oldest_capability: the lowest.
    """

    nvcc: Path | None
    missing: tuple[str, ...]
    version: tuple[int, int] | None = None
    absent: tuple[str, ...] = ()
    parts: Mapping[str, Path] = {}
    folders: tuple[Path, ...] = ()
    remarks: tuple[str, ...] = ()
    cudnn_headers: Path | None = None
    newest_capability: int | None = None
    oldest_capability: int | None = None

    @property
    def usable(self) -> bool:
        """Whether Jittor can be started with this toolkit."""
        return self.nvcc is not None and not self.missing


def find(environ: Mapping[str, str], cache: Path) -> CudaToolkit:
    """Look for a compiler, its libraries and headers, and a driver.

    The compiler may lie in CUDA_HOME, beside an ``nvcc`` on the PATH, in Python's own prefix (conda's is one), in the
    usual folders, in NVIDIA's wheels, or where Jittor has downloaded one earlier. The first that is complete, by itself
    or with wheels, is taken; one in CUDA_HOME is taken in any case, and before it that of the variable ``nvcc_path``.

    Args:
        environ: the environment.
        cache: Jittor's folder, where its downloads would lie.
    """
    named = environ.get("nvcc_path")
    if named is not None:
        return _named(named, environ, cache)
    chosen, remarks = environ.get("CUDA_HOME"), []
    if chosen and _holds_nvcc(Path(chosen)):
        return _examined(Path(chosen).absolute(), environ, cache)
    if chosen:
        remarks.append(f"CUDA_HOME is {chosen}, which has no bin/nvcc with bin/nvcc.profile beside it")
    homes = list(dict.fromkeys(_homes(environ, cache)))
    if not homes:
        on_path = shutil.which("nvcc", path=environ.get("PATH"))
        if on_path:
            remarks.append(f"{on_path} calls an nvcc elsewhere; name the folder of its toolkit in CUDA_HOME")
        return CudaToolkit(None, ("nvcc",), remarks=tuple(remarks))
    examined = [_examined(home, environ, cache) for home in homes]
    found = next((toolkit for toolkit in examined if toolkit.usable), min(examined, key=lambda t: len(t.missing)))
    return found._replace(remarks=(*remarks, *found.remarks))


def settings(toolkit: CudaToolkit) -> dict[str, str]:
    """The environment variables with which Jittor starts with this toolkit, or without CUDA, and downloads nothing."""
    if not toolkit.usable:
        return {"nvcc_path": ""}
    # cuDNN and cuBLAS round float32 to 10 bits on recent cards unless told otherwise; they read this when they load
    wanted = {"nvcc_path": str(toolkit.nvcc), "NVIDIA_TF32_OVERRIDE": "0"}
    wanted |= {f"use_{name}": "0" for name in DOWNLOADS if name in toolkit.absent}
    if set(_WITH_CUDNN) & set(toolkit.absent):
        wanted["conv_opt"] = "1"
    if toolkit.version is not None and toolkit.version >= (13, 0):
        # a cache of its own, since Jittor would build a part of its core anew after every start with other flags
        wanted |= {"cc_flags": _CC_FLAGS_13, "use_mpi": "0", "cache_name": "cuda13"}
    newest = toolkit.newest_capability
    limit = next(by for since, by in _NEWEST_CAPABILITIES.items() if (toolkit.version or (99, 0)) >= since)
    if newest is not None and newest > limit:
        # Jittor makes machine code up to the limit, which newer devices do not run; their driver compiles this. It has
        # to be for the architecture that Jittor compiles for, which is that of the oldest device.
        wanted["nvcc_flags"] = f" -code=compute_{min(toolkit.oldest_capability or limit, limit)} "
    return wanted


def header_folders(folder: Path) -> list[Path]:
    """Where a toolkit or wheel keeps headers; CUDA 13 has a folder of its own for CUB, Thrust and libcudacxx."""
    includes = [folder / "include", *sorted(folder.glob("targets/*-linux/include"))]
    return [path for include in includes for path in (include, include / "cccl") if isdir(path)]


def library_folders(folder: Path) -> list[Path]:
    """Where a toolkit or wheel keeps libraries."""
    folders = [folder / "lib64", folder / "lib", *sorted(folder.glob("targets/*-linux/lib"))]
    return [path for path in folders if isdir(path)]


def header(folders: Iterable[Path], name: str) -> Path | None:
    """The first header of this name in folders of toolkits and wheels, or in the system's."""
    return next((found for folder in (*folders, None) if (found := _header_in(folder, name))), None)


def _named(nvcc: str, environ: Mapping[str, str], cache: Path) -> CudaToolkit:
    """What Jittor starts with where the user names it a compiler, or none by an empty name."""
    if not nvcc:
        return CudaToolkit(None, ("nvcc",))
    home = Path(nvcc).absolute().parent.parent
    if not _holds_nvcc(home):
        home = Path(nvcc).resolve().parent.parent
    if _holds_nvcc(home):
        found = _examined(home, environ, cache)
        absent = (*found.absent, *(_WITH_CUDNN if found.folders else ()))  # no home of links will be made for it
        return found._replace(nvcc=Path(nvcc), folders=(), absent=absent)
    return CudaToolkit(Path(nvcc), (), cuda_compiler.release(Path(nvcc)).version, _no_downloads(cache))


def _homes(environ: Mapping[str, str], cache: Path) -> Iterator[Path]:
    on_path = shutil.which("nvcc", path=environ.get("PATH"))
    folders = [Path(on_path).resolve().parent.parent] if on_path else []
    folders += [Path(sys.prefix), *map(Path, _FOLDERS)]
    folders += sorted(Path("/usr/local").glob("cuda-*"), reverse=True) if _FOLDERS else []
    folders += [wheel for site in _sites() for wheel in sorted(site.glob("cu[0-9]*"), reverse=True)]
    for folder in [*folders, *sorted((cache / "jtcuda").glob("cuda*"), reverse=True)]:
        if _holds_nvcc(folder):
            yield folder.resolve()


def _holds_nvcc(folder: Path) -> bool:
    """Whether this is a toolkit's folder, not one with a program that calls nvcc elsewhere."""
    return isfile(folder / "bin" / "nvcc") and isfile(folder / "bin" / "nvcc.profile")


def _sites() -> list[Path]:
    return [Path(place) / "nvidia" for place in sys.path if place and isdir(Path(place) / "nvidia")]


def _no_downloads(cache: Path) -> tuple[str, ...]:
    return tuple(name for name in DOWNLOADS if not any((cache / name).glob("*/")))


def _examined(home: Path, environ: Mapping[str, str], cache: Path) -> CudaToolkit:
    nvcc = home / "bin" / "nvcc"
    version, said = _version_in_headers(home), None
    if version is None:
        said = cuda_compiler.release(nvcc)
        version = said.version
    wheels, remarks = _wheels(version)
    found = _parts(home, version, wheels=[])
    if not {*_REQUIRED, *_COMPILER_HEADERS, "NVVM", "cudnn"} <= set(found):
        found = _parts(home, version, wheels)
    if "cudnn" not in found:
        remarks += [_misfit(folder, version) for folder in (home, None, *wheels) if _misfit(folder, version)]
    parts = {"nvcc": nvcc} | {name: part.file for name, part in found.items()}
    driver = cuda_driver.find()
    missing = [_missing(name) for name in ("NVVM", *_REQUIRED, *_COMPILER_HEADERS) if name not in parts]
    host = _header_in(home, "crt/host_config.h") or _header_in(None, "crt/host_config.h")
    missing += [lack for lack in [driver.lacks(version), cuda_compiler.lacks(host, environ)] if lack]
    if said is None and not missing:  # Jittor asks it for its version, whatever the headers say
        said = cuda_compiler.release(nvcc)
    if said is not None and said.problem:
        missing.append(f"an nvcc that runs ({said.problem})")
    of_wheels = any(part.folder in wheels for part in found.values())
    cudnn = found.get("cudnn")
    as_it_lies = not of_wheels and _is_as_jittor_wants_it(home, version, parts, cudnn)
    return CudaToolkit(
        nvcc=nvcc,
        missing=tuple(missing),
        version=version,
        absent=(
            *_no_downloads(cache),
            *(name for name in _WITH_CUDNN if name not in parts),
        ),
        parts=parts,
        folders=() if as_it_lies else (home, *(wheels if of_wheels else ())),
        remarks=tuple(remarks),
        cudnn_headers=None if cudnn is None else cudnn.header.parent,
        newest_capability=max(driver.capabilities, default=None),
        oldest_capability=min(driver.capabilities, default=None),
    )


class _Part(NamedTuple):
    """A library and its header, from one folder (None stands for the system's), or a header or program alone."""

    file: Path
    header: Path
    folder: Path | None


def _parts(home: Path, version: tuple[int, int] | None, wheels: list[Path]) -> dict[str, _Part]:
    """Each part that is there, from the first folder that has all of it: the toolkit, the system's, or a wheel."""
    found: dict[str, _Part] = {}
    for name in (*_REQUIRED, *_WITH_CUDNN):
        for folder in (home, None, *wheels):
            library = _library(folder, name)
            top = _header_in(folder, _HEADER.get(name, f"{name}.h"))
            if library is None or top is None or (name == "cudnn" and _misfit(folder, version)):
                continue
            found[name] = _Part(library, top, folder)
            break
    for name, file in _COMPILER_HEADERS.items():
        for folder in (home, None, *wheels):
            top = _header_in(folder, file)
            if top is not None:
                found[name] = _Part(top, top, folder)
                break
    for folder in (home, *wheels):
        program = next((folder / place for place in _CICC if isfile(folder / place)), None)
        if program is not None:
            found["NVVM"] = _Part(program, program, folder)
            break
    return found


def _misfit(folder: Path | None, version: tuple[int, int] | None) -> str:
    """Why the cuDNN of a folder is not for this CUDA; empty where it is, or there is none."""
    top = _header_in(folder, "cudnn.h")
    if top is None or _library(folder, "cudnn") is None:
        return ""
    generation = _cudnn_major(top.parent)
    if generation is None or version is None or version[0] in _CUDNN_OF_CUDA.get(generation, ()):
        return ""
    return "cuDNN {} is not for CUDA {}.{}".format(generation, *version)


def _missing(name: str) -> str:
    if name == "NVVM":
        return f"NVVM, without which nvcc compiles nothing ({_CICC[0]})"
    return f"the headers of {name}" if name in _COMPILER_HEADERS else f"{name} with its header"


def _is_as_jittor_wants_it(
    home: Path, version: tuple[int, int] | None, parts: Mapping[str, Path], cudnn: _Part | None
) -> bool:
    """Whether every part lies where Jittor looks, under the name that it looks for, and compiles as it is."""
    if version is None or version >= (13, 0) or not isfile(home / "include" / "npp.h"):
        return False
    if cudnn is not None and _cudnn_major(cudnn.header.parent) != 8:
        return False
    near = [*library_folders(home), *map(Path, SYSTEM_LIBRARIES)]
    names = [name for name in (*_REQUIRED, *_WITH_CUDNN) if name in parts]
    return isfile(home / "lib64" / "libcudart.so") and all(_any_file(near, f"lib{name}.so") for name in names)


def _wheels(version: tuple[int, int] | None) -> tuple[list[Path], list[str]]:
    """Folders of NVIDIA's wheels of a major version, and a remark for each that is of another one."""
    folders, remarks = [], []
    for site in _sites():
        for folder in sorted(site.glob("*")):
            majors = _majors_of(folder)
            if not library_folders(folder) and not header_folders(folder):
                continue
            if version is None or not majors or version[0] in majors:
                folders.append(folder)
            else:
                remarks.append(f"{folder} is of CUDA {' and '.join(map(str, sorted(majors)))}, and left out")
    return folders, remarks


def _majors_of(folder: Path) -> set[int]:
    """The versions of CUDA that a wheel's folder is of: ``cu13``, or by its package, ``nvidia-cublas-cu12``."""
    own = re.fullmatch(r"cu(\d+)", folder.name)
    if own:
        return {int(own[1])}
    packages = folder.parent.parent.glob(f"nvidia_{folder.name}_cu*-*.dist-info")
    return {int(found[1]) for path in packages if (found := re.search(r"_cu(\d+)-", path.name))}


def _library(folder: Path | None, name: str) -> Path | None:
    for place in map(Path, SYSTEM_LIBRARIES) if folder is None else library_folders(folder):
        for path in (place / f"lib{name}.so", *sorted(place.glob(f"lib{name}.so.*"))):
            if isfile(path):
                return path
    return None


def _header_in(folder: Path | None, name: str) -> Path | None:
    places = map(Path, _HEADERS) if folder is None else header_folders(folder)
    return next((place / name for place in places if isfile(place / name)), None)


def _any_file(folders: Iterable[Path], name: str) -> bool:
    return any(isfile(folder / name) for folder in folders)


def _cudnn_major(headers: Path) -> int | None:
    for name in ("cudnn_version.h", "cudnn.h"):
        found = _number(headers / name, "CUDNN_MAJOR")
        if found is not None:
            return found
    return None


def _version_in_headers(home: Path) -> tuple[int, int] | None:
    for folder in header_folders(home):
        found = _number(folder / "cuda.h", "CUDA_VERSION")
        if found is not None:
            return found // 1000, found % 1000 // 10  # 11080 is 11.8
    return None


def _number(file: Path, macro: str) -> int | None:
    try:
        text = file.read_text(errors="replace")
    except OSError:
        return None
    found = re.search(rf"#define\s+{macro}\s+(\d+)", text)
    return int(found[1]) if found else None
