"""``python -m jboat doctor``: what was found, what is missing, and the command that fixes it."""

from __future__ import annotations

from importlib import metadata
import os
from pathlib import Path
import platform
import shutil
import subprocess
import sys

from jboat.backend import cuda_compiler, cuda_driver, cuda_toolkit, mpi, onednn, start
from jboat.backend.cuda_driver import CudaDriver
from jboat.backend.cuda_toolkit import CudaToolkit
from jboat.backend.jittor_home import jittor_home, require_writable_home

_LABEL = 12
_JOIN_WHEELS = "pip install 'jboat-trainer[cuda13]'"
_CHOOSE_HOME = "export JITTOR_HOME=/a/folder/you/can/write"
_WHEELS = {"cudart": "cuda-runtime", "CCCL": "cuda-cccl", "CRT": "cuda-nvcc", "NVVM": "cuda-nvcc"}
_WITHOUT = {
    "cudnn": "not used; convolutions are products of matrices, slower",
    "cufft": "not found; cuDNN is not used without it",
    "cusparse": "not found; cuDNN is not used without it",
}


def main() -> int:
    """Print the report; returns 0 if Jittor computes a second derivative and it is right, else 1."""
    start.forget_inherited(os.environ)
    _line("python", f"{platform.python_version()} at {sys.executable}")
    _line("jboat", metadata.version("jboat-trainer"))
    _report_compiler()
    _report_jittor()
    try:
        jittor_home()
    except RuntimeError as error:
        _line("cache", str(error), _CHOOSE_HOME)
        return 1
    _report_onednn()
    _report_cuda()
    _report_cache()
    status = _report_second_derivative()
    if status == 0:
        _report_mpi()  # with the core that the line before has compiled
    return status


def _line(label: str, text: str, fix: str = "") -> None:
    if label:
        print(f"{label + ':':<{_LABEL}} {text}")
    if fix:
        print(f"{'':<{_LABEL}} fix it: {fix}")


def _report_compiler() -> None:
    path = shutil.which(os.environ.get("cc_path") or "g++")  # noqa: SIM112
    if path is None:
        _line("compiler", "not found; Jittor compiles every kernel", "apt-get install g++, or set cc_path")
        return
    try:
        said = cuda_compiler.run([path, "--version"])[1].strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        _line("compiler", f"{path} does not run: {error}", "apt-get install g++, or set cc_path")
        return
    _line("compiler", f"{said.splitlines()[0] if said else 'unknown version'} at {path}")


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
    prefix = onednn.find()
    home = jittor_home()
    if onednn.link(home, prefix):
        _line("oneDNN", f"in use from {onednn.folder(home) / 'lib'}")
    elif prefix is None:
        _line("oneDNN", "not found; convolutions run 80 times slower", f"pip install {onednn.WHEEL}")
    else:
        folder = onednn.folder(home)
        _line("oneDNN", f"found in {prefix}, but {folder} holds something else", f"rm -r '{folder}'")


def _report_cuda() -> None:
    chosen = os.environ.get("nvcc_path")  # noqa: SIM112
    if chosen is not None:
        _line("CUDA", f"nvcc_path={chosen!r}, as the environment says")
        return
    driver = cuda_driver.find()
    runs = "not found" if driver.version is None else f"{driver.devices} devices, CUDA {_dotted(driver.version)}"
    if driver.problem:
        runs = driver.problem if driver.version is None else f"{runs}; {driver.problem}"
    _line("CUDA driver", runs)
    toolkit = start.find_cuda()
    if toolkit.usable:
        _line("CUDA", f"{_version(toolkit)}, {toolkit.nvcc}")
    elif toolkit.nvcc is None:
        _line("CUDA", "not used: there is no nvcc", _compiler_for(driver))
        for remark in toolkit.remarks:
            _line("  remark", remark)
        return
    else:
        _line("CUDA", f"not used: missing {', '.join(toolkit.missing)}")
    commands: dict[str, None] = {}
    for name in cuda_toolkit.PARTS:
        if name in toolkit.parts:
            _line(f"  {name}", str(toolkit.parts[name]))
        else:
            _line(f"  {name}", _WITHOUT.get(name, "missing"))
            commands[_package(name, toolkit.version)] = None
    if commands and driver.devices:
        _line("", "", "; ".join(commands))
    downloads = [name for name in cuda_toolkit.DOWNLOADS if name in toolkit.absent]
    if downloads:
        _line("  optional", f"without {', '.join(downloads)}")
    for remark in toolkit.remarks:
        _line("  remark", remark)
    if toolkit.usable and os.environ.get("NVIDIA_TF32_OVERRIDE", "0") == "0":
        _line("  TF32", "off, for exact float32; NVIDIA_TF32_OVERRIDE=1 in the environment turns it on")


def _compiler_for(driver: CudaDriver) -> str:
    """How to get a compiler whose programs this driver runs; nothing without a device."""
    if driver.version is None or not driver.devices:
        return ""
    if driver.version >= (13, 0):
        return _JOIN_WHEELS
    return (
        f"install the toolkit of CUDA {driver.version[0]} from your system, since no wheel has its compiler; "
        f"or a driver for CUDA 13, then {_JOIN_WHEELS}"
    )


def _version(toolkit: CudaToolkit) -> str:
    return "toolkit" if toolkit.version is None else f"toolkit {_dotted(toolkit.version)}"


def _dotted(version: tuple[int, int]) -> str:
    return "{}.{}".format(*version)


def _package(part: str, version: tuple[int, int] | None) -> str:
    """The command that brings a part of a toolkit."""
    if version is None or version[0] >= 13:
        return _JOIN_WHEELS
    return f"pip install nvidia-{_WHEELS.get(part, part)}-cu{version[0]}"


def _report_mpi() -> None:
    """Whether several processes can train together, which two of them try."""
    launcher, missing = shutil.which("mpirun"), mpi.lacks()
    if missing or launcher is None:
        why = missing or "there is no mpirun to start them"
        _line("MPI", f"several processes cannot train together: {why}", "" if mpi.is_off() else mpi.INSTALL)
        return
    said = mpi.tried(launcher)
    _line("MPI", f"FAILED: {said}" if said else f"two processes agree; {launcher}, {mpi.compiler()}")


def _report_cache() -> None:
    cache = jittor_home() / ".cache" / "jittor"
    try:
        require_writable_home(jittor_home())
    except RuntimeError as error:
        _line("cache", str(error), _CHOOSE_HOME)
        return
    _line("cache", f"{cache} ({_kernels(cache)} compiled kernels)")


def _kernels(cache: Path) -> int:
    return sum(1 for _ in cache.glob("**/jit/*.so"))


def _report_second_derivative() -> int:
    try:
        start.start()
        import jittor as jt

        x = jt.array([0.5, -2.0])
        (gradient,) = jt.grad((x * x * x).sum(), [x])
        (second,) = jt.grad((gradient * jt.array([1.0, 10.0])).sum(), [x])
        values = second.numpy().tolist()
    except (Exception, SystemExit) as error:
        _line("derivatives", f"Jittor failed: {type(error).__name__}: {error}")
        return 1
    right = all(abs(got - exact) < 1e-4 for got, exact in zip(values, [3.0, -120.0], strict=True))
    _line("derivatives", f"second derivative on the CPU is {'right' if right else f'WRONG: {values}'}")
    return _report_device_derivatives() if right and jt.has_cuda else int(not right)


def _report_device_derivatives() -> int:
    from jboat.trainers.commands import device_derivatives

    failed = False
    for name in device_derivatives.OPERATIONS:
        try:
            found = device_derivatives.differences(name, "cuda")
        except Exception as error:
            failed = True
            _line(f"  {name}", f"FAILED on CUDA: {type(error).__name__}: {error}")
            continue
        right = max(found) <= device_derivatives.TOLERANCE
        failed = failed or not right
        text = "value {:.0e}, first derivative {:.0e}, second {:.0e} from the CPU's".format(*found)
        _line(f"  {name}", text if right else f"WRONG on CUDA: {text}")
    return int(failed)
