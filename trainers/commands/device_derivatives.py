"""Whether the GPU computes the derivatives that hypergradients are made of as the CPU does."""

from __future__ import annotations

from collections.abc import Callable

from jboat.fast_gradients import fast_gradients
import jittor as jt
from jittor import nn
import numpy as np

TOLERANCE = 1e-4

_ARRAYS = {
    name: np.random.default_rng(position).normal(size=size).astype(np.float32)
    for position, (name, size) in enumerate(
        {"matrix": (6, 8), "other": (8, 5), "images": (2, 3, 6, 6), "kernels": (4, 3, 3, 3)}.items()
    )
}
OPERATIONS: dict[str, tuple[Callable[..., jt.Var], tuple[str, ...]]] = {
    "matmul": (lambda a, b: a @ b, ("matrix", "other")),
    "conv": (lambda x, w: nn.conv2d(x, w, padding=1), ("images", "kernels")),
    "softmax": (lambda x: nn.softmax(x, dim=-1), ("matrix",)),
    "where": (lambda x: jt.where(x > 0, x, x * x), ("matrix",)),
}


def derivatives(name: str, device: str) -> list[list[np.ndarray]]:
    """The value, the first derivatives and the second ones of an operation.

    The first derivatives are those of the sum of the squared result, the second those of the first ones' squared norm.

    Args:
        name: an operation of :data:`OPERATIONS`.
        device: ``"cpu"`` or ``"cuda"``.
    """
    operation, names = OPERATIONS[name]
    with jt.flag_scope(use_cuda=int(device == "cuda")), fast_gradients():
        inputs = [jt.array(_ARRAYS[argument]) for argument in names]
        value = operation(*inputs)
        first = jt.grad((value * value).sum(), inputs)
        second = jt.grad(sum((g * g).sum() for g in first), inputs)
        return [[v.numpy() for v in group] for group in ([value], first, second)]


def differences(name: str, device: str) -> list[float]:
    """How far value, first and second derivatives are from the CPU's, as a part of the largest entry."""
    return [
        max(_distance(a, b) for a, b in zip(got, wanted, strict=True))
        for got, wanted in zip(derivatives(name, device), derivatives(name, "cpu"), strict=True)
    ]


def _distance(got: np.ndarray, wanted: np.ndarray) -> float:
    difference = float(np.abs(got - wanted).max() / np.abs(wanted).max())
    return difference if np.isfinite(difference) else float("inf")
