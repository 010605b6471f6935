"""Operations of Jittor's graph in C++ that are fast on a CPU, in derivatives of every order.

* ``matrix_product``: the product of two float32 matrices. Jittor writes it as a sum over a three-dimensional array,
  four operations that it hands to oneDNN where it recognises them, which it does not in second derivatives. Here it is
  one operation, whose derivatives are products again, and products with few columns or rows have kernels of their own
  (thin_product.cc), since oneDNN leaves much of the processor's vectors empty there.
* ``linear``, a product with a bias, and ``linear_gradients``, its derivatives by both at once: Jittor's kernels for the
  bias, its gradient and what that adds to a second derivative use one core.
* ``convolution``, with the addition of a bias: one operation instead of five, and no copies that oneDNN does not need.
* ``channels``: one number per channel in every place of a batch of images, as a convolution adds its bias, or the sums
  over all other axes, which is the derivative, and for which Jittor's kernel has no vector code.
* ``rectified``, which is ReLU and keeps its result alone for the derivative, where Jittor keeps a condition as well.
  The derivative adds up what reaches it from several layers, for which Jittor has another kernel, on one core.
* ``cross_entropy``: softmax and cross entropy of the rows of a matrix, where Jittor has twenty small operations and as
  many kernels to compile.
* ``combination``, ``scaled``, ``inner_product``: linear algebra on arrays of any shape, which Jittor would fuse with
  whatever stands beside it, and compile again for every neighbour.
"""

from __future__ import annotations

from collections.abc import Sequence
import functools
import logging
from pathlib import Path
import shutil
import tempfile
from typing import Any

from jboat.backend import onednn
from jboat.backend.cpu_ops.protocol import Operations
from jboat.backend.jittor_home import jittor_home
import jittor as jt

__all__ = ["Operations", "compile_operations", "load"]

logger = logging.getLogger("jboat")

FOR_VECTOR_CODE = (
    "-fno-math-errno -fno-trapping-math -fno-signed-zeros -fassociative-math -fvect-cost-model=dynamic -D__FAST_MATH__"
)
"""Options of g++.

Jittor's own ``-O2`` behind them undoes ``-Ofast``, and ``-ffast-math`` lets the library change how the whole process
treats the smallest numbers. The macro makes glibc declare exponentials of vectors.
"""

KERNELS = (
    "convolution",
    "cross_entropy",
    "linear_algebra",
    "product",
    "rectify",
    "sums",
    "thin_product",
)
"""The files beside this one that compute: on pointers and sizes, without Jittor, and with memory from scratch.h."""
_OPERATIONS = (
    "matrix_product",
    "linear",
    "linear_gradients",
    "convolution",
    "channels",
    "rectified",
    "cross_entropy",
    "combination",
    "scaled",
    "inner_product",
)
_HEADERS = ("checks.h", "int64.h", "onednn.h", "threads.h")
_SOURCES = (
    *(f"{name}_op.{kind}" for name in _OPERATIONS for kind in ("h", "cc")),
    *(f"{name}.{kind}" for name in (*KERNELS, "scratch") for kind in ("h", "cc")),
    *_HEADERS,
)


@functools.cache
def load() -> Operations | None:
    """The operations, or None without oneDNN, which they need, and where they cannot be compiled.

    The start of Jittor makes the first call, which compiles them into Jittor's cache, in some seconds.
    """
    if not jt.compile_extern.mkl_ops:
        return None
    try:
        operations: Operations = compile_operations([Path(__file__).with_name(name) for name in _SOURCES])
    except (OSError, RuntimeError, ImportError) as error:
        logger.warning("jboat's operations for CPUs are left out, and steps are slower: %s", error)
        return None
    return operations


def compile_operations(sources: Sequence[str | Path]) -> Any:
    """Compile operations of Jittor's graph, as jboat's own are.

    Args:
        sources: files in C++, among them NAME_op.h and NAME_op.cc for every operation. They may include jboat's headers
            and those of oneDNN; what is not in their own text, such as jboat's kernels, has to be named too.

    Returns:
        An object whose methods are the operations.

    Raises:
        OSError: if they cannot be copied into Jittor's cache.
        RuntimeError: if they cannot be compiled.
    """
    installed = onednn.folder(jittor_home())
    # from the cache, since the sources' path is part of the command, and environments may share a cache
    folder = Path(jt.flags.cache_path) / "jboat"
    folder.mkdir(parents=True, exist_ok=True)
    copies = [_copied(Path(source), folder) for source in sources]
    flags = f' {FOR_VECTOR_CODE} -fopenmp -I"{installed / "include"}" -L"{installed / "lib"}" -lmkldnn '
    return jt.compiler.compile_custom_ops([str(path) for path in copies], extra_flags=flags)


def _copied(source: Path, folder: Path) -> Path:
    target = folder / source.name
    if not target.exists() or target.read_bytes() != source.read_bytes():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:  # two processes may do this at once
            fresh = Path(scratch) / source.name
            shutil.copyfile(source, fresh)
            fresh.replace(target)
    return target
