"""Let Jittor do as in a program of one process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import jittor as jt


@contextmanager
def jittor_alone() -> Iterator[None]:
    """Inside the block Jittor's datasets do not split their batches, and its optimizers do not average gradients.

    It does both of its own accord where ``mpirun`` has started the program. What jboat reduces is reduced all the same.
    """
    inside, jt.in_mpi = jt.in_mpi, False
    try:
        yield
    finally:
        jt.in_mpi = inside
