"""Jittor operations in forms whose gradients run fast on a CPU.

Four things make gradients slow there, most of all second derivatives:

* The gradient of ReLU, and of everything else made of ``jt.ternary``, selects by a stored ``bool``, and g++ makes no
  vector code of a loop that loads one: 12 ms for 1.5 million numbers, where the same loop over bytes takes 0.7 ms.
* A matrix product is a sum over a three-dimensional product, which Jittor hands to oneDNN where it recognises it. In a
  second derivative it adds up the contributions to a factor before it sums, recognises nothing, and runs a plain loop.
* Exponentials are fused into every kernel that reads them, and computed again in each. Where such a kernel sums along
  rows, g++ makes no vector code of it either.
* Softmax and cross entropy subtract the largest entry of a row, and are differentiated by it, which gives zero.

Inside :func:`fast_gradients` conditions are stored as bytes, the gradient of a matrix product is made of matrix
products, exponentials have a kernel of their own, and the largest entry is a constant. Values are the same, and
gradients are up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
import contextlib
from typing import Any

from jboat.functional import alias
import jittor as jt

_CONDITIONAL = ("ternary", "ternary_out_hint", "where")
_EXPONENTIAL = ("exp", "sigmoid", "tanh", "erf")
_SHIFTED = ((jt.nn, "cross_entropy_loss"), (jt.nn, "softmax"), (jt.Var, "softmax"))
_constant: set[int] = set()


@contextlib.contextmanager
def fast_gradients() -> Iterator[None]:
    """Let operations of Jittor build graphs whose gradients are fast, inside the block.

    ``fit``, ``hypergradient`` and ``evaluate`` of the trainer run in such a block. It does nothing on a GPU, for other
    types than float32, or for products of other than matrices, and may be nested.
    """
    if jt.flags.use_cuda:
        yield
        return
    multiply, multiply_transposed = jt.nn.matmul, jt.nn.matmul_transpose

    def matmul(a: jt.Var, b: jt.Var) -> jt.Var:
        return _product(a, 2, b, 0) if _are_matrices(a, b, 1, 0) else multiply(a, b)

    def matmul_transpose(a: jt.Var, b: jt.Var) -> jt.Var:
        return _product(a, 1, b, 0) if _are_matrices(a, b, 1, 1) else multiply_transposed(a, b)

    replacements = [(jt, name, _by_bytes(getattr(jt, name))) for name in _CONDITIONAL]
    replacements += [(owner, n, _computed_once(getattr(owner, n))) for owner in (jt, jt.Var) for n in _EXPONENTIAL]
    replacements += [(owner, name, _by_constant_shift(getattr(owner, name))) for owner, name in _SHIFTED]
    replacements += [(owner, "matmul", matmul) for owner in (jt, jt.nn, jt.Var)]
    replacements += [(jt.Var, "__matmul__", matmul), (jt.nn, "matmul_transpose", matmul_transpose)]
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in replacements]
    for owner, name, replacement in replacements:
        setattr(owner, name, replacement)
    try:
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


@contextlib.contextmanager
def constant(values: Iterable[Any]) -> Iterator[None]:
    """Leave products with these Vars, such as a batch, to Jittor inside the block.

    Derivatives by them stay right. But where they are not taken, Jittor's products are as fast, and build quicker.
    """
    added = {v.id for v in values if isinstance(v, jt.Var)} - _constant
    _constant.update(added)
    try:
        yield
    finally:
        _constant.difference_update(added)


def _by_bytes(operation: Callable[..., jt.Var]) -> Callable[..., jt.Var]:
    def conditional(condition: Any, *values: Any) -> jt.Var:
        if values and isinstance(condition, jt.Var) and condition.dtype == "bool":
            condition = condition.uint8()
        return operation(condition, *values)

    return conditional


def _computed_once(operation: Callable[..., jt.Var]) -> Callable[..., jt.Var]:
    def computed_once(*args: Any, **kwargs: Any) -> jt.Var:
        return operation(*args, **kwargs).stop_fuse()

    return computed_once


def _by_constant_shift(operation: Callable[..., jt.Var]) -> Callable[..., jt.Var]:
    """``operation``, which subtracts maxima without depending on them, with these maxima constants."""

    def by_constant_shift(*args: Any, **kwargs: Any) -> jt.Var:
        largest, largest_of = jt.max, jt.Var.max
        jt.max = jt.Var.max = lambda x, *axes, **options: largest_of(x.detach(), *axes, **options)
        try:
            return operation(*args, **kwargs)
        finally:
            jt.max, jt.Var.max = largest, largest_of

    return by_constant_shift


def _are_matrices(a: Any, b: Any, a_axis: int, b_axis: int) -> bool:
    """Whether both are float32 matrices that fit along these axes; what does not is left for Jittor to refuse."""
    both = isinstance(a, jt.Var) and isinstance(b, jt.Var) and a.ndim == b.ndim == 2
    return both and a.dtype == b.dtype == "float32" and a.shape[a_axis] == b.shape[b_axis] and not jt.flags.amp_reg


def _product(a: jt.Var, missing_a: int, b: jt.Var, missing_b: int) -> jt.Var:
    """The sum of ``a * b`` over the axis that both have, of three axes of which each lacks another.

    The gradient is taped as two such products. Both factors are held by handles of their own, so that second
    derivatives reach them, whatever the caller's handles hold by then.
    """
    if jt.flags.no_grad or any(v.is_stop_grad() or v.id in _constant for v in (a, b)):
        return _sum_of_products(a, missing_a, b, missing_b)
    held_a, held_b = alias(a), alias(b)

    def gradient(by_out: jt.Var | None) -> tuple[jt.Var | None, jt.Var | None]:
        if by_out is None:  # nothing that is differentiated depends on the product
            return None, None
        summed = 3 - missing_a - missing_b
        return _product(by_out, summed, held_b, missing_b), _product(by_out, summed, held_a, missing_a)

    inside_a, inside_b = a.tape(), b.tape()
    out = _sum_of_products(inside_a, missing_a, inside_b, missing_b).tape()
    jt.tape_together([inside_a, inside_b], [out], gradient)
    return out


def _sum_of_products(a: jt.Var, missing_a: int, b: jt.Var, missing_b: int) -> jt.Var:
    """What Jittor makes a matrix product of, and recognises as one."""
    shape = list(a.shape)
    shape.insert(missing_a, b.shape[missing_a - (missing_b < missing_a)])
    return (a.broadcast(shape, [missing_a]) * b.broadcast(shape, [missing_b])).sum(3 - missing_a - missing_b)
