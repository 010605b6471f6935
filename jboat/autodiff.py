"""Gradients, vector-Jacobian products and Hessian-vector products on lists of Vars.

Jittor gives zeros for the second mention of the same Var, refuses integers, and differentiates a cotangent that is
not detached. These functions do what is expected in all three cases, and never replace a NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
import functools

from jboat import functional, precision
from jboat.backend import collective_order
import jittor as jt
import numpy as np

_SMALLEST = 1e-30  # of a number by which others are divided in float32


def grad(loss: jt.Var, inputs: Sequence[jt.Var]) -> list[jt.Var]:
    """The gradient of a scalar, differentiable itself.

    Args:
        loss: a Var with one element.
        inputs: Vars of any shape; a repeated one gets its gradient every time.

    Returns:
        One Var per input, of its shape and dtype. Zeros for an input that is unused, of integer type or stop-grad.

    Raises:
        ValueError: if ``loss`` has more than one element.
    """
    if loss.numel() != 1:
        raise ValueError(f"loss must be a scalar, got shape {list(loss.shape)}; take its mean() or sum() first")
    scale = precision.loss_scale()
    if scale is not None:
        return functional.times(1.0 / scale, _grad(functional.differentiable(loss * scale), inputs))
    if loss.dtype == "float32" and list(loss.shape) == [1] and not jt.flags.use_cuda and not jt.flags.amp_reg:
        loss = functional.start_of_gradient([loss], [_one()])
    return _grad(functional.differentiable(loss), inputs)


@functools.cache
def _one() -> jt.Var:
    # of two axes at first: an array of shape [1] would be a kernel of its own
    return jt.array(np.ones((1, 1), np.float32)).reshape(1).stop_grad()


def _grad(loss: jt.Var, inputs: Sequence[jt.Var]) -> list[jt.Var]:
    ids = [v.id for v in inputs]
    unique = {i: v for i, v in zip(ids, inputs, strict=True) if functional.is_float(v) and not v.is_stop_grad()}
    with collective_order.one_grad():
        found = jt.grad(loss, list(unique.values())) if unique else []
    found = functional.of_dtypes(found, unique.values())
    if len(found) == len(ids):
        return found
    gradients = dict(zip(unique, found, strict=True))
    return [gradients[i] if i in gradients else jt.zeros_like(v) for i, v in zip(ids, inputs, strict=True)]


def vjp(outputs: Sequence[jt.Var], inputs: Sequence[jt.Var], cotangents: Sequence[jt.Var]) -> list[jt.Var]:
    """The product of ``cotangents`` with the Jacobian of ``outputs`` by ``inputs``.

    Args:
        outputs: Vars that depend on the inputs.
        inputs: Vars of any shape.
        cotangents: one Var per output, of its shape; taken as constants.

    Returns:
        One Var per input, of its shape.
    """
    constants = functional.of_dtypes(functional.detached(cotangents), outputs)
    scale = precision.loss_scale()
    if scale is None:
        return _grad(functional.start_of_gradient(outputs, constants), inputs)
    factor = scale / _largest(constants)
    found = _grad(functional.start_of_gradient(outputs, [c * factor for c in constants]), inputs)
    return [v / factor for v in found]


def _largest(variables: Sequence[jt.Var]) -> jt.Var:
    """The largest absolute value of all entries, shape ``[1]``, or 1 where all are 0."""
    largest = jt.array([0.0])
    for v in variables:
        largest = jt.maximum(largest, v.abs().max())
    return jt.ternary(largest > _SMALLEST, largest, jt.ones_like(largest)).detach()


def hvp(loss: jt.Var, inputs: Sequence[jt.Var], vectors: Sequence[jt.Var]) -> list[jt.Var]:
    """The Hessian of ``loss`` by ``inputs`` times ``vectors``.

    For many products with the same Hessian take ``g = grad(loss, inputs)`` once and ``vjp(g, inputs, v)`` for each.

    Args:
        loss: a Var with one element.
        inputs: Vars of any shape.
        vectors: one Var per input, of its shape; taken as constants.

    Returns:
        One Var per input, of its shape.
    """
    return vjp(grad(loss, inputs), inputs, vectors)
