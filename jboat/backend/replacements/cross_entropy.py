"""Cross entropy of the rows of a matrix, differentiable to any order."""

from __future__ import annotations

from typing import Any

from jboat.backend.cpu_ops import Operations
from jboat.backend.replacements.constant_shift import by_constant_shift
from jboat.backend.replacements.dispatch import Function, Place, install
from jboat.backend.replacements.plain_arrays import is_matrix
import jittor as jt

_PLACE = (jt.nn, "cross_entropy_loss")
_JITTORS = install(*_PLACE, "an operation in C++ on a CPU; the largest entry is a constant")


def on_cpu(operations: Operations | None) -> dict[Place, Function]:
    """The functions that run inside a block on a CPU, by place."""
    other = by_constant_shift(_JITTORS)
    return {_PLACE: other if operations is None else _by_operations(operations, other)}


def on_cuda() -> dict[Place, Function]:
    """The functions that run inside a block on CUDA, by place."""
    return {_PLACE: by_constant_shift(_JITTORS)}


def _by_operations(operations: Operations, other: Function) -> Function:
    def cross_entropy_loss(
        output: jt.Var, target: jt.Var, weight: Any = None, ignore_index: Any = None, reduction: str = "mean"
    ) -> jt.Var:
        plain = weight is None and ignore_index is None
        if not plain or not is_matrix(output) or not _are_labels(target, output.shape[0]):
            return other(output, target, weight, ignore_index, reduction)
        labels = target if target.dtype == "int64" else target.int32()
        classes = output.shape[1]
        losses = operations.cross_entropy([output, labels], "losses", classes)
        if reduction == "mean":
            return operations.cross_entropy([losses, labels], "mean", classes)
        return losses.sum() if reduction == "sum" else losses

    return cross_entropy_loss


def _are_labels(target: Any, count: int) -> bool:
    integers = ("int32", "int64", "int16", "int8", "uint8")
    return isinstance(target, jt.Var) and target.ndim == 1 and target.shape[0] == count and target.dtype in integers
