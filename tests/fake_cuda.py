"""Folders that look like CUDA toolkits and like NVIDIA's wheels, with empty libraries."""

from jboat.backend import cuda_driver, cuda_toolkit
from jboat.backend.cuda_driver import CudaDriver

HEADERS = {"cudart": "cuda_runtime.h"}
COMPILER = ("cub/cub.cuh", "crt/host_runtime.h")
REQUIRED = ("cudart", "cublas", "curand")
DRIVER = CudaDriver((12, 4), 1)
WITH_CUDNN = ("cudnn", "cufft", "cusparse")


def touch(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def compiler(home, version=(12, 4)):
    """nvcc, and the headers that come with it."""
    nvcc = touch(home / "bin" / "nvcc", "#!/bin/sh\necho 'Cuda compilation tools, release {}.{}'\n".format(*version))
    nvcc.chmod(0o755)
    touch(home / "bin" / "nvcc.profile")
    touch(home / "nvvm" / "bin" / "cicc")
    for name in COMPILER:
        touch(home / "include" / name, f"// of {home.name}\n")
    touch(home / "include" / "cuda.h", f"#define CUDA_VERSION {1000 * version[0] + 10 * version[1]}\n")
    return home


def part(folder, name, *, lib="lib64", suffix=".so"):
    """A library and its header."""
    touch(folder / lib / f"lib{name}{suffix}")
    touch(folder / "include" / HEADERS.get(name, f"{name}.h"))


def cudnn(folder, major, *, lib="lib64", versioned=False):
    """cuDNN of a generation, with the libraries that it has."""
    halves = ("ops_infer", "ops_train", "cnn_infer", "cnn_train") if major == 8 else ("ops", "cnn", "graph")
    for name in ("cudnn", *(f"cudnn_{half}" for half in halves)):
        touch(folder / lib / f"lib{name}.so{f'.{major}' if versioned else ''}")
    touch(folder / "include" / "cudnn.h", "// cuDNN's own\n")
    touch(folder / "include" / "cudnn_version.h", f"#define CUDNN_MAJOR {major}\n")


def whole(home, version=(12, 4), parts=REQUIRED, *, npp=True):
    """A toolkit as a system has it."""
    compiler(home, version)
    for name in parts:
        part(home, name)
    if npp:
        touch(home / "include" / "npp.h")
    return home


def wheel(site, name, *, package=None, parts=()):
    """A folder of one of NVIDIA's wheels, whose libraries have a version in their name."""
    folder = site / "nvidia" / name
    folder.mkdir(parents=True, exist_ok=True)
    for library in parts:
        part(folder, library, lib="lib", suffix=".so.1")
    if package:
        (site / f"{package}-1.0.dist-info").mkdir(parents=True, exist_ok=True)
    return folder


def machine(monkeypatch, *, driver=DRIVER, sites=()):
    """Nothing of this machine's CUDA is seen; the driver and the folders with wheels are those given."""
    for name in ("_FOLDERS", "SYSTEM_LIBRARIES", "_HEADERS"):
        monkeypatch.setattr(cuda_toolkit, name, ())
    monkeypatch.setattr(cuda_driver, "find", lambda: driver)
    monkeypatch.setattr(cuda_toolkit, "_sites", lambda: [site / "nvidia" for site in sites])
