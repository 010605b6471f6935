"""Functions of exponentials that are right where these overflow or vanish.

Jittor's ``elu`` multiplies the infinite exponential of a large positive entry by zero in its derivatives, which gives
NaN. Its ``logsumexp`` takes exponentials as they come, which is infinite above 88 in float32, and its ``log_sigmoid``
the logarithm of a sigmoid, which Jittor cuts off at -30.
"""

from __future__ import annotations

from collections.abc import Sequence

from jboat.backend.replacements.dispatch import Function, Place, install
from jboat.backend.replacements.plain_arrays import is_float
import jittor as jt

_WHY = "its values and derivatives are right where exponentials overflow or vanish"
_LARGEST = 1e38
_ELU = (jt.nn, "elu")
_LOG_SIGMOID = [(owner, "log_sigmoid") for owner in (jt.nn, jt.Var)]
_LOGSUMEXP = [(owner, "logsumexp") for owner in (jt.nn, jt.Var)]
for _place in (_ELU, *_LOG_SIGMOID, *_LOGSUMEXP):
    install(*_place, _WHY)


def everywhere() -> dict[Place, Function]:
    """The functions that run inside a block, by place."""
    return {_ELU: _elu, **dict.fromkeys(_LOG_SIGMOID, _log_sigmoid), **dict.fromkeys(_LOGSUMEXP, _logsumexp)}


def _elu(x: jt.Var, alpha: float = 1.0) -> jt.Var:
    is_positive = x > 0
    negative = jt.ternary(is_positive, jt.zeros_like(x), x)
    return jt.ternary(is_positive, x, alpha * (negative.exp() - 1))


def _log_sigmoid(x: jt.Var) -> jt.Var:
    return -jt.nn.softplus(-x)


def _logsumexp(x: jt.Var, dim: int | Sequence[int], keepdims: bool = False, keepdim: bool = False) -> jt.Var:
    x = x if is_float(x) else x.float32()
    # kernels are compiled for finite numbers, and an infinite shift would take infinity from infinity
    shift = x.detach().max(dim, keepdims=True).clamp(-_LARGEST, _LARGEST)
    result = (x - shift).exp().sum(dim, keepdims=True).log() + shift
    if keepdim or keepdims:
        return result
    axes = {d % x.ndim for d in ([dim] if isinstance(dim, int) else dim)}
    return result.reshape([size for axis, size in enumerate(x.shape) if axis not in axes])
