"""Find a CUDA that Jittor can start with, and what Jittor has to be told about it.

Jittor's import crashes, aborts or downloads where a part is missing, so that everything is looked for before it starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import ctypes
from pathlib import Path
import re
import shutil
from typing import NamedTuple

DOWNLOADS = ("cutt", "cutlass", "nccl")
_FOLDERS = ("/usr/local/cuda", "/opt/cuda")
_LIBRARIES = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib")
_HEADERS = ("/usr/include",)
# cudaDeviceProp has lost two fields in CUDA 13, and its CUB wants a newer C++
_CC_FLAGS_13 = " -std=c++20 -DclockRate=multiProcessorCount -DcomputeMode=integrated "


class CudaToolkit(NamedTuple):
    """What was found of CUDA; it is usable when ``missing`` is empty.

    Attributes:
        nvcc: the compiler, or None.
        missing: what Jittor cannot start without.
        version: major and minor version, or None where ``cuda.h`` does not tell.
        absent: optional parts that are not there: ``cutt``, ``cutlass``, ``nccl``, ``cudnn``, ``cufft``, ``cusparse``.
    """

    nvcc: Path | None
    missing: tuple[str, ...]
    version: tuple[int, int] | None = None
    absent: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether Jittor can be started with this toolkit."""
        return self.nvcc is not None and not self.missing


def find(environ: Mapping[str, str], cache: Path) -> CudaToolkit:
    """Look for a toolkit in CUDA_HOME, on the PATH and in the usual places, and for a driver.

    Args:
        environ: the environment.
        cache: Jittor's folder, where its downloads would lie.
    """
    candidates = [environ["CUDA_HOME"]] if environ.get("CUDA_HOME") else []
    on_path = shutil.which("nvcc", path=environ.get("PATH"))
    if on_path:
        candidates.append(str(Path(on_path).resolve().parent.parent))
    homes = [Path(folder) for folder in (*candidates, *_FOLDERS) if (Path(folder) / "bin" / "nvcc").is_file()]
    if not homes:
        return CudaToolkit(None, ("nvcc",))
    home = next((home for home in homes if _runtime(home).is_file()), homes[0])
    missing = [] if _runtime(home).is_file() else [str(_runtime(home).relative_to(home))]
    missing += [f"{name} with its header" for name in ("cublas", "curand") if not _has(home, name, header=True)]
    if not _driver_has_a_device():
        missing.append("a CUDA driver with a device")
    absent = [name for name in DOWNLOADS if not any((cache / name).glob("*/"))]
    absent += [name for name in ("cufft", "cusparse") if not _has(home, name, header=True)]
    if not (_has(home, "cudnn", header=True) and _has(home, "cudnn_ops_infer")):  # which cuDNN 9 has no more
        absent.append("cudnn")
    return CudaToolkit(home / "bin" / "nvcc", tuple(missing), _version(home), tuple(absent))


def settings(toolkit: CudaToolkit) -> dict[str, str]:
    """The environment variables with which Jittor starts with this toolkit, or without CUDA, and downloads nothing."""
    if not toolkit.usable:
        return {"nvcc_path": ""}
    wanted = {"nvcc_path": str(toolkit.nvcc)}
    wanted |= {f"use_{name}": "0" for name in DOWNLOADS if name in toolkit.absent}
    if {"cudnn", "cufft", "cusparse"} & set(toolkit.absent):
        wanted["conv_opt"] = "1"
    if toolkit.version is not None and toolkit.version >= (13, 0):
        wanted |= {"cc_flags": _CC_FLAGS_13, "use_mpi": "0"}
    return wanted


def _runtime(home: Path) -> Path:
    """The library that Jittor loads from this very place, or aborts."""
    return home / "lib64" / "libcudart.so"


def _has(home: Path, name: str, *, header: bool = False) -> bool:
    targets = list(home.glob("targets/*"))
    libraries = [home / "lib64", *(target / "lib" for target in targets), *map(Path, _LIBRARIES)]
    headers = [home / "include", *(target / "include" for target in targets), *map(Path, _HEADERS)]
    return _any_file(libraries, f"lib{name}.so") and (not header or _any_file(headers, f"{name}.h"))


def _any_file(folders: Iterable[Path], name: str) -> bool:
    return any((folder / name).is_file() for folder in folders)


def _version(home: Path) -> tuple[int, int] | None:
    try:
        text = (home / "include" / "cuda.h").read_text(errors="replace")
    except OSError:
        return None
    found = re.search(r"#define\s+CUDA_VERSION\s+(\d+)", text)
    return divmod(int(found[1]) // 10, 100) if found else None  # 11080 is 11.8


def _driver_has_a_device() -> bool:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
