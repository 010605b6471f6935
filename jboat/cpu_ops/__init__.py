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

import functools
import logging
from pathlib import Path
import shutil
import tempfile
from typing import Any

from jboat.backend import onednn
from jboat.backend.jittor_home import jittor_home
import jittor as jt

logger = logging.getLogger("jboat")

Operations = Any
"""The compiled operations."""

CONVOLVED = 0
"""The part of ``convolution`` that is asked for; see convolution_op.h for those that derive it."""

LOSSES, MEAN, SOFTMAX = range(3)
"""The parts of ``cross_entropy`` that are asked for; see cross_entropy_op.h for them and for those that derive them."""

# Jittor's own -O2 behind the flags undoes -Ofast, and -ffast-math lets the library change how the whole process treats
# the smallest numbers. The macro makes glibc declare exponentials of vectors.
_FOR_VECTOR_CODE = (
    "-fno-math-errno -fno-trapping-math -fno-signed-zeros -fassociative-math -fvect-cost-model=dynamic -D__FAST_MATH__"
)
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
_SHARED = ("checks.h", "onednn.h", "product.h", "product.cc", "thin_product.h", "thin_product.cc")
_SOURCES = (*(f"{name}_op.{kind}" for name in _OPERATIONS for kind in ("h", "cc")), *_SHARED)


@functools.cache
def load() -> Any | None:
    """The operations; the headers beside this file say what they compute.

    The start of Jittor makes the first call, which compiles them into Jittor's cache, in some seconds. They need
    oneDNN; without it, or where they cannot be compiled, the result is None.
    """
    if not jt.compile_extern.mkl_ops:
        return None
    installed = onednn.folder(jittor_home())
    flags = f' {_FOR_VECTOR_CODE} -fopenmp -I"{installed / "include"}" -L"{installed / "lib"}" -lmkldnn '
    try:
        # from the cache, since the sources' path is part of the command, and environments may share a cache
        folder = Path(jt.flags.cache_path) / "jboat"
        folder.mkdir(parents=True, exist_ok=True)
        sources = [_copied(Path(__file__).with_name(name), folder) for name in _SOURCES]
        return jt.compiler.compile_custom_ops([str(path) for path in sources], extra_flags=flags)
    except (OSError, RuntimeError, ImportError) as error:
        logger.warning("jboat's operations for CPUs are left out, and steps are slower: %s", error)
        return None


def _copied(source: Path, folder: Path) -> Path:
    target = folder / source.name
    if not target.exists() or target.read_bytes() != source.read_bytes():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:  # two processes may do this at once
            fresh = Path(scratch) / source.name
            shutil.copyfile(source, fresh)
            fresh.replace(target)
    return target
