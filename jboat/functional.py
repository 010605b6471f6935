"""Run a Jittor module with substituted parameters, and linear algebra on lists of Vars."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
import itertools
import math
from typing import Any

from jboat.backend import cpu_ops
from jboat.backend.replacements.plain_arrays import is_float as is_float
from jboat.plain_numbers import plain
import jittor as jt
import numpy as np

_SAFE_SQUARES = (1e-24, 1e36)
"""Sums of squares between which no square that matters has left the range of float32."""


def alias(var: jt.Var) -> jt.Var:
    """A second Python handle on the same node of Jittor's graph: same value, same history, same gradient.

    ``Var._update`` is used because ``assign`` and ``update`` would change the node: its name, and under ``no_grad`` its
    gradient.
    """
    return jt.Var(0.0)._update(var)


@contextlib.contextmanager
def substituted(variables: Sequence[jt.Var], values: Sequence[jt.Var]) -> Iterator[None]:
    """Let ``variables`` hold ``values`` inside the block.

    Whatever reaches the variables sees the values: a module's attributes, tied weights, closures. Gradients of what
    the block computes are taken with respect to ``values``. Blocks may be nested.

    Args:
        variables: the Vars to fill, each at most once.
        values: one Var per variable, of the same shape.
    """
    held = [alias(value) for value in values]
    for variable, value in zip(variables, held, strict=True):
        variable.swap(value)
    try:
        yield
    finally:
        for variable, value in zip(variables, held, strict=True):
            variable.swap(value)


def called_with(
    values: Sequence[jt.Var], variables: Sequence[jt.Var], function: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    """``function(*args, **kwargs)`` while ``variables`` hold ``values``.

    Where the function returns one of the variables itself, alone or in tuples, lists and dicts, its value is returned
    in its place, with the history it has, since the variable is about to change back.

    Args:
        values: one Var per variable, of the same shape.
        variables: the Vars to fill, each at most once.
        function: what to call.
        args: its arguments.
        kwargs: its arguments by name.
    """
    with substituted(variables, values):
        return _apart(function(*args, **kwargs), {id(v) for v in variables})


def _apart(result: Any, variables: set[int]) -> Any:
    """The result with an alias in place of each of the variables, which are told by their ids."""
    if isinstance(result, jt.Var):
        return alias(result) if id(result) in variables else result
    if type(result) in (tuple, list):
        return type(result)(_apart(entry, variables) for entry in result)
    if isinstance(result, tuple) and hasattr(result, "_fields"):
        return type(result)(*(_apart(entry, variables) for entry in result))
    if type(result) is dict:
        return {name: _apart(entry, variables) for name, entry in result.items()}
    return result


def trainable(module: jt.Module) -> list[jt.Var]:
    """The module's parameters that take gradients: floating point, and not stop-grad. Tied ones appear once."""
    return [p for p in module.parameters() if is_float(p) and not p.is_stop_grad()]


def buffers(module: jt.Module) -> list[jt.Var]:
    """The module's Vars that are not trained, such as BatchNorm's running statistics."""
    return [p for p in module.parameters() if p.is_stop_grad() or not is_float(p)]


def preserved(variables: Sequence[jt.Var]) -> contextlib.AbstractContextManager[None]:
    """Give ``variables`` back the values they had when the block was entered."""
    return _preserved(variables) if variables else contextlib.nullcontext()


@contextlib.contextmanager
def _preserved(variables: Sequence[jt.Var]) -> Iterator[None]:
    before = [alias(v) for v in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.swap(value)


def detached(variables: Sequence[jt.Var]) -> list[jt.Var]:
    """The same values as leaves without history, not computed yet; the originals are left alone."""
    return [v.detach() for v in variables]


def cut(variables: Sequence[jt.Var], *, together_with: Sequence[jt.Var] = ()) -> list[jt.Var]:
    """The same values as leaves without history, computed.

    What is built from them later makes a graph of its own, with kernels of its own.

    Args:
        variables: left alone.
        together_with: what is computed in the same run, and keeps its history.
    """
    leaves = detached(variables)
    jt.sync([*leaves, *together_with])
    return leaves


def cut_lists(*lists: Sequence[jt.Var], together_with: Sequence[jt.Var] = ()) -> list[list[jt.Var]]:
    """Several lists, each as :func:`cut` returns it, computed in one run."""
    leaves = iter(cut([v for variables in lists for v in variables], together_with=together_with))
    return [list(itertools.islice(leaves, len(variables))) for variables in lists]


def of_dtypes(variables: Sequence[jt.Var], like: Iterable[jt.Var]) -> list[jt.Var]:
    """The variables, each with the dtype of its counterpart in ``like``."""
    return [v if v.dtype == other.dtype else v.cast(str(other.dtype)) for v, other in zip(variables, like, strict=True)]


def dot(a: Sequence[jt.Var], b: Sequence[jt.Var]) -> jt.Var:
    """The inner product of two lists of Vars, shape ``[1]``."""
    operations = _operations(*a, *b)
    if operations is not None:
        return operations.inner_product([*a, *b])
    total = (a[0] * b[0]).sum()
    for x, y in zip(a[1:], b[1:], strict=True):
        total = total + (x * y).sum()
    return total


def norm(variables: Sequence[jt.Var]) -> float:
    """The Euclidean norm of all entries together, which neither overflows nor underflows where it can be written down.

    One number comes from the device, the sum of squares; only where squares leave float32's range are the entries
    fetched and scaled. NaN gives NaN.
    """
    squares = dot(variables, variables).item()
    return math.sqrt(squares) if safe_squares(squares) else _scaled_norm(variables)


def safe_squares(squares: float) -> bool:
    """Whether a sum of squares can be trusted to have lost nothing to float32's range."""
    return _SAFE_SQUARES[0] < squares < _SAFE_SQUARES[1]


def _scaled_norm(variables: Sequence[jt.Var]) -> float:
    entries = np.concatenate([v.numpy().ravel() for v in variables]).astype(np.float64)
    largest = float(np.abs(entries).max(initial=0.0))  # NaN where there is one
    if largest == 0.0 or not math.isfinite(largest):
        return largest
    return largest * float(np.linalg.norm(entries / largest))


def times(factor: float, variables: Sequence[jt.Var]) -> list[jt.Var]:
    """``factor * v`` for each, computed outside the device where the factor itself is beyond float32."""
    if 1e-30 < abs(factor) < 1e30:
        return [_scaled(v, factor) for v in variables]
    arrays = [(v.numpy().astype(np.float64) * factor).astype(str(v.dtype)) for v in variables]
    return [jt.array(a, dtype=str(v.dtype)) for a, v in zip(arrays, variables, strict=True)]


def start_of_gradient(outputs: Sequence[jt.Var], cotangents: Sequence[jt.Var]) -> jt.Var:
    """The inner product of two lists of Vars, to be given to ``jt.grad`` and to nothing else, shape ``[1]``.

    Jittor starts a gradient with an array of one number, 1, and a kernel that fills it. Here the gradient starts with
    the cotangents themselves where :mod:`jboat.backend.cpu_ops` can compute with them.
    """
    operations = _operations(*outputs, *cotangents)
    if operations is None:
        return differentiable(dot(outputs, cotangents))
    return operations.inner_product([*outputs, *cotangents], starts_gradient=True)


def differentiable(loss: jt.Var) -> jt.Var:
    """What stands for a loss when Jittor takes its gradient, which is the same; in float64 it is the loss in float32.

    Jittor starts a gradient with a 1 of the loss's type. Where several kernels read that, one of its own stores it, and
    that is the same for all types: compiled for whichever type a process has first. After float32's, float64's 1 would
    be stored as 0.
    """
    return loss.cast("float32") if loss.dtype == "float64" else loss


def axpy(scale: float | jt.Var, x: Sequence[jt.Var], y: Sequence[jt.Var], *, factor: float = 1.0) -> list[jt.Var]:
    """``factor * scale * x + y``, entry by entry; ``scale`` is a number or a Var that holds one."""
    scale, factor = plain(scale), plain(factor)
    operations = _operations(*x, *y, *([scale] if isinstance(scale, jt.Var) else []))
    if operations is None:
        return [_scaled(a, factor, scale) + b for a, b in zip(x, y, strict=True)]
    if isinstance(scale, jt.Var):
        x, scale = [operations.scaled(a, scale) for a in x], 1.0
    return [operations.combination([a, b], factor * scale, 1.0) for a, b in zip(x, y, strict=True)]


def _scaled(v: jt.Var, factor: float, scale: float | jt.Var = 1.0) -> jt.Var:
    """``factor * scale * v``, a ``v`` of float64 times numbers of float64.

    Jittor rounds a Python number to float32 beside any Var, and its product with a Var of one entry too.
    """
    if v.dtype != "float64":
        return factor * scale * v
    if isinstance(scale, jt.Var):
        v = scale * v
    else:
        factor = factor * scale
    return v if factor == 1.0 else jt.array(factor, dtype="float64") * v


def _operations(*variables: jt.Var) -> cpu_ops.Operations | None:
    """:mod:`jboat.backend.cpu_ops`, where they can compute with these variables."""
    if jt.flags.use_cuda or any(v.dtype != "float32" for v in variables):
        return None
    return cpu_ops.load()
