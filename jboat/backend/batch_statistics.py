"""Means over the samples of all ranks inside a model, as batch normalization takes them.

Jittor's layers ask for ``Var.mpi_all_reduce``. In its place lies one that keeps to the order of all reductions, whose
derivatives of any order do too, and that weighs each rank's mean by its samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from jboat.backend import ranks, replicated
import jittor as jt

_weight: ContextVar[float | None] = ContextVar(
    "this rank's share of the samples that objectives are given", default=None
)


@contextmanager
def weighted(weight: float) -> Iterator[None]:
    """Let this rank's means count for so much, inside the block, in those over all ranks."""
    before = _weight.set(weight)
    try:
        yield
    finally:
        _weight.reset(before)


def share() -> float:
    """What a mean over this rank's samples counts for beside those of other ranks, 1 where all have as many."""
    given = _weight.get()
    return 1.0 if given is None else given * ranks.size()


def use() -> None:
    """Let Jittor's layers take means over all ranks' samples."""
    if ranks.size() > 1:
        jt.Var.mpi_all_reduce = _all_reduce


def _all_reduce(variable: jt.Var, op: str = "add") -> jt.Var:
    """What lies in the place of ``Var.mpi_all_reduce``: the sum, or the mean, of all ranks' values."""
    if op not in ("add", "mean"):
        raise ValueError(f"mpi_all_reduce takes 'add' or 'mean', got {op!r}")
    weight = 1.0
    if op == "mean":
        weight = share() / ranks.size()
    return _weighted_sums([variable], weight)[0]


def _weighted_sums(variables: Sequence[jt.Var], weight: float) -> list[jt.Var]:
    """Sums over all ranks, each of which has its own weight, as functions of what every rank has."""
    return replicated.taped(
        variables, lambda values: ranks.total(_times(weight, values)), lambda c: _weighted_shares(c, weight)
    )


def _weighted_shares(variables: Sequence[jt.Var], weight: float) -> list[jt.Var]:
    """The derivative of :func:`_weighted_sums`."""
    return replicated.taped(
        variables, lambda values: _times(weight, ranks.total(values)), lambda c: _weighted_sums(c, weight)
    )


def _times(weight: float, values: Sequence[jt.Var]) -> list[jt.Var]:
    return list(values) if weight == 1.0 else [weight * v for v in values]
