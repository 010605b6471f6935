"""In which precision the models compute: their products and convolutions alone, or with them everything, in float32.

A trainer says it for the context that it runs in. Objectives and metrics are called inside :func:`products`, so that
whatever else is computed, by operators, optimizers or callbacks, has float32's products. Derivatives of what was built
there have half products by themselves, wherever they are taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
import functools
from typing import TYPE_CHECKING, Literal

from jboat.backend.replacements import dispatch
from jboat.backend.replacements.dispatch import Function, Place
from jboat.loss_scale import LossScale

if TYPE_CHECKING:
    from jboat.backend.half_arithmetic import HalfKind

PrecisionName = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class HalfPrecision:
    """Products and convolutions in half.

    Attributes:
        kind: ``"bf16"`` or ``"fp16"``.
        loss_scale: what losses are multiplied by; None with bf16, whose smallest number is float32's.
    """

    kind: HalfKind
    loss_scale: LossScale | None


_in_use: ContextVar[HalfPrecision | None] = ContextVar("the precision of models where it is not float32", default=None)
_NOTHING: AbstractContextManager[None] = nullcontext()


@contextmanager
def used(precision: HalfPrecision | None) -> Iterator[None]:
    """Let models compute in this precision inside the block; None is float32."""
    before = _in_use.set(precision)
    try:
        yield
    finally:
        _in_use.reset(before)


def products() -> AbstractContextManager[None]:
    """A block in which models are called: products are half where that is in use."""
    precision = _in_use.get()
    if precision is None:
        return _NOTHING
    import jittor as jt  # which starts it

    return dispatch.replaced(_functions(precision.kind, bool(jt.flags.use_cuda)))


def loss_scale() -> float | None:
    """What a loss is multiplied by before its gradient is taken; None for nothing."""
    precision = _in_use.get()
    return None if precision is None or precision.loss_scale is None else precision.loss_scale.value


@functools.cache
def _functions(kind: HalfKind, on_cuda: bool) -> dict[Place, Function]:
    from jboat.backend import half_arithmetic  # these start Jittor
    from jboat.backend.replacements import half_products

    return half_products.in_half(half_arithmetic.on_cuda(kind) if on_cuda else half_arithmetic.emulated(kind))
