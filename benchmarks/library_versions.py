"""The versions of CUDA and cuDNN that Jittor, or PyTorch, computes with: ``library_versions.py jittor``."""

from __future__ import annotations

import argparse
import ctypes
from pathlib import Path
import sys


def of_jittor() -> str:
    """Jittor's version and those of the libraries that it has loaded to compute on the GPU."""
    import jboat  # noqa: F401  (starts Jittor)
    import jittor as jt

    if not jt.has_cuda:
        raise SystemExit("Jittor runs without CUDA")
    jt.flags.use_cuda = 1
    jt.rand(2, 2).sum().item()
    runtime, convolutions = _loaded("libcudart"), _loaded("libcudnn")
    versions = ["a CUDA runtime of unknown version" if runtime is None else f"CUDA {_cuda(runtime)}"]
    versions.append("without cuDNN" if convolutions is None else f"cuDNN {_cudnn(convolutions.cudnnGetVersion())}")
    return f"Jittor {jt.__version__}, {', '.join(versions)}"


def of_pytorch() -> str:
    """PyTorch's version and those of the libraries that it was built with."""
    import torch

    torch.rand(2, 2, device="cuda").sum().item()
    number = torch.backends.cudnn.version()
    return f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {_cudnn(number) if number else 'absent'}"


def _loaded(name: str) -> ctypes.CDLL | None:
    """A library of this process, by the beginning of its file's name."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    files = sorted({line.split()[-1] for line in lines if "/" in line})
    path = next((file for file in files if Path(file).name.startswith(f"{name}.so")), None)
    return None if path is None else ctypes.CDLL(path)


def _cuda(runtime: ctypes.CDLL) -> str:
    number = ctypes.c_int(0)
    runtime.cudaRuntimeGetVersion(ctypes.byref(number))
    return f"{number.value // 1000}.{number.value % 1000 // 10}"  # 13000 is 13.0


def _cudnn(number: int) -> str:
    major, rest = divmod(number, 10000 if number >= 90000 else 1000)  # 90100 is 9.1.0, 8902 is 8.9.2
    return f"{major}.{rest // 100}.{rest % 100}"


def main() -> int:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", choices=["jittor", "pytorch"])
    print(of_jittor() if parser.parse_args().library == "jittor" else of_pytorch())
    return 0


if __name__ == "__main__":
    sys.exit(main())
