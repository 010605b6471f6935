"""What jboat changes in the process that it runs in: environment variables, flags and functions of Jittor."""

from __future__ import annotations

ENVIRONMENT = {
    "log_silent": "`1`: Jittor says nothing when it starts",
    "cache_name": "the folder in Jittor's cache; `cuda13` with CUDA 13, whose core has other flags",
    "use_mkl": "`0` where oneDNN is missing",
    "nvcc_path": "the CUDA compiler that was found, or nothing",
    "nvcc_flags": "PTX for a device that is newer than what Jittor compiles for",
    "cc_flags": "with CUDA 13, the C++ of 2020",
    "conv_opt": "`1` where a library that cuDNN needs is missing",
    "use_cutt": "`0` where it is missing, so that Jittor downloads none; so the next two",
    "use_cutlass": "see `use_cutt`",
    "use_nccl": "see `use_cutt`",
    "use_mpi": "`0` with CUDA 13",
    "NVIDIA_TF32_OVERRIDE": "`0` with CUDA: products and convolutions in float32",
    "python_config_path": "a program that tells Jittor where this Python's headers are",
    "JBOAT_CHOSE": "which of these jboat has set, for the processes that this one starts",
}
"""The variables that are set where you have not set them, and what to."""

FLAGS = {
    "jt.flags.cc_flags": "a precompiled header, with g++ and without CUDA",
    "jt.flags.python_path": "with g++ from 11 on, a script that compiles kernels without a start of Python for each",
    "jt.flags.nvcc_flags": "with CUDA, shorter headers",
    "jt.flags.use_cuda": "while a trainer runs, as its `device` says; then as it was",
    "jt.flags.no_grad": "while `evaluate` runs; then as it was",
    "jt.flags.use_tensorcore": "`0` while a trainer with `precision` bf16 or fp16 runs; then as it was",
}
"""Jittor's flags that are changed."""

RESTORED = (
    "Python's and numpy's generators of random numbers and HTTPS verification are as before Jittor's import",
    "Ctrl-C raises KeyboardInterrupt, and children that are killed do not end the process, as before Jittor's import; "
    "the second not while one of Jittor's Datasets has worker processes",
    "`jt.code` runs passes in Python over a kernel's source when the operation is made, not when it is compiled",
    "while `fit` looks at its first batch, `-` and `*` of `jt.Var` note shapes; then they are as before",
    "in the program `jboat`, the module `jittor` starts when it is first used; `import jboat` starts it elsewhere",
    "under `mpirun`, `sys.excepthook` ends all processes by what one of them raises alone, and the logger `jboat` of "
    "all but rank 0 is set to errors; `jt.in_mpi` is False while a loader is read and the upper optimizer steps",
    "under `mpirun`, `Var.mpi_all_reduce` takes means over all ranks' samples, for batch normalization, and keeps to "
    "the order of all reductions",
    "while a progress bar is shown, a filter before `std::cerr` takes out Jittor's lines about kernels, and no others",
    "`jittor_utils.install_cuda.has_installation` finds no CUDA that Jittor has downloaded",
)
"""The rest."""
