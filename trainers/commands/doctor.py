"""``python -m jboat doctor``: what was found, what is missing, and the command that mends it."""

from __future__ import annotations

from importlib import metadata
import os
from pathlib import Path
import platform
import shutil
import subprocess
import sys

from jboat import runtime

_LABEL = 12


def main() -> int:
    """Print the report; returns 0 if Jittor computes a second derivative and it is right, else 1."""
    _line("python", f"{platform.python_version()} at {sys.executable}")
    _line("jboat", metadata.version("jboat-trainer"))
    _report_compiler()
    _report_jittor()
    _report_onednn()
    _report_cuda()
    _report_mpi()
    _report_cache()
    return _report_second_derivative()


def _line(label: str, text: str, mend: str = "") -> None:
    print(f"{label + ':':<{_LABEL}} {text}")
    if mend:
        print(f"{'':<{_LABEL}} mend it: {mend}")


def _report_compiler() -> None:
    path = shutil.which(os.environ.get("cc_path") or "g++")  # noqa: SIM112
    if path is None:
        _line("compiler", "not found; Jittor compiles every kernel", "apt-get install g++, or set cc_path")
        return
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    _line("compiler", f"{version.splitlines()[0] if version else 'unknown version'} at {path}")


def _report_jittor() -> None:
    numpy_version = metadata.version("numpy")
    _line("jittor", metadata.version("jittor"))
    if int(numpy_version.split(".")[0]) >= 2:
        _line("numpy", f"{numpy_version}: Jittor reads garbage from numpy 2", "pip install 'numpy<2'")
    else:
        _line("numpy", numpy_version)


def _report_onednn() -> None:
    if os.environ.get("use_mkl") == "0":  # noqa: SIM112
        _line("oneDNN", "off, because the environment says use_mkl=0", "unset use_mkl")
        return
    prefix = runtime.find_onednn()
    home = runtime.jittor_home()
    if runtime.link_onednn(home, prefix):
        _line("oneDNN", f"in use from {runtime.onednn_folder(home) / 'lib'}")
    elif prefix is None:
        _line("oneDNN", "not found; convolutions run 80 times slower", f"pip install {runtime.ONEDNN_WHEEL}")
    else:
        folder = runtime.onednn_folder(home)
        _line("oneDNN", f"found in {prefix}, but {folder} holds something else", f"rm -r '{folder}'")


def _report_cuda() -> None:
    chosen = os.environ.get("nvcc_path")  # noqa: SIM112
    if chosen is not None:
        _line("CUDA", f"nvcc_path={chosen!r}, as the environment says")
        return
    toolkit = runtime.find_cuda()
    version = "" if toolkit.version is None else " {}.{}".format(*toolkit.version)
    if toolkit.usable:
        _line("CUDA", f"toolkit{version}, {toolkit.nvcc}")
    else:
        _line("CUDA", f"not used: missing {', '.join(toolkit.missing)}")
    if toolkit.nvcc is not None:
        others = [name for name in toolkit.absent if name != "cudnn"]
        _line("CUDA parts", f"without {', '.join(others)}" if others else "all optional ones found")
    has_cudnn = toolkit.nvcc is not None and "cudnn" not in toolkit.absent
    _line("cuDNN", "found" if has_cudnn else "not found; Jittor uses version 8, and its own convolutions without it")


def _report_mpi() -> None:
    _line("MPI", shutil.which(os.environ.get("mpicc_path") or "mpicc") or "not found")  # noqa: SIM112


def _report_cache() -> None:
    cache = runtime.jittor_home() / ".cache" / "jittor"
    try:
        runtime.require_writable_home(runtime.jittor_home())
    except RuntimeError as error:
        _line("cache", str(error), "export JITTOR_HOME=/a/folder/you/can/write")
        return
    _line("cache", f"{cache} ({_kernels(cache)} compiled kernels)")


def _kernels(cache: Path) -> int:
    return sum(1 for _ in cache.glob("**/jit/*.so"))


def _report_second_derivative() -> int:
    try:
        runtime.start()
        import jittor as jt

        x = jt.array([0.5, -2.0])
        (gradient,) = jt.grad((x * x * x).sum(), [x])
        (second,) = jt.grad((gradient * jt.array([1.0, 10.0])).sum(), [x])
        values = second.numpy().tolist()
    except (Exception, SystemExit) as error:
        _line("derivatives", f"Jittor failed: {type(error).__name__}: {error}")
        return 1
    right = all(abs(got - exact) < 1e-4 for got, exact in zip(values, [3.0, -120.0], strict=True))
    device = "CUDA" if jt.flags.use_cuda else "the CPU"
    _line("derivatives", f"second derivative on {device} is {'right' if right else f'WRONG: {values}'}")
    return 0 if right else 1
