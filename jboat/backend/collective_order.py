"""The order in which ranks run their reductions, which has to be the same on all of them.

Two things of Jittor's depend on shapes, so that a rank with one sample does not do as one with two. It runs what is
ready in the order in which it was made, but fused with its neighbours, so that one of two reductions' terms may be
there later than on other ranks. And ``grad`` goes through a graph in an order that depends on operations which sizes of
1 make unnecessary. So reductions run after everything else that is ready, in the order of numbers that are given out
here: at once where Python makes them, and for those that one call of ``grad`` makes in the order of what they are the
derivatives of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
from contextvars import ContextVar
import functools

import jittor as jt

# An operation's number is the place in which it was made; Jittor has no other way to say when it is to run.
_HEADER = """
struct LastInOrderOp : Op {
    LastInOrderOp(Var* x);
    const char* name() const override { return "last_in_order"; }
};
"""
_SOURCE = """
LastInOrderOp::LastInOrderOp(Var* x) {
    static int64 place = 1LL << 40;
    if (!x->is_finished() && x->input())
        x->input()->id = ++place;
    forward(x);
}
"""


class Part:
    """A part of a computation whose derivatives are reductions; where it stands among others."""

    def __init__(self) -> None:
        self.number = 0
        _take_turn(self)


class _Grad:
    """A call of ``grad`` under way.

    Attributes:
        made: what it has made so far, each with the number of the part that it is the derivative of.
        part: the part that is being differentiated.
    """

    def __init__(self) -> None:
        self.made: list[tuple[int, Part | jt.Var]] = []
        self.part: Part | None = None


_grad: ContextVar[_Grad | None] = ContextVar("the call of grad under way", default=None)
_number = 0


@contextlib.contextmanager
def one_grad() -> Iterator[None]:
    """Number what one call of ``grad`` makes when it has ended, not as it is made."""
    if jt.world_size == 1:
        yield
        return
    grad = _Grad()
    before = _grad.set(grad)
    try:
        yield
    finally:
        _grad.reset(before)
    for _, made in sorted(grad.made, key=lambda pair: pair[0]):
        _give_number(made)


@contextlib.contextmanager
def derivative_of(part: Part) -> Iterator[None]:
    """Say whose derivative is made inside the block."""
    grad = _grad.get()
    if grad is None:
        yield
        return
    grad.part, before = part, grad.part
    try:
        yield
    finally:
        grad.part = before


def _take_turn(made: Part | jt.Var) -> None:
    grad = _grad.get()
    if grad is None or grad.part is None:
        _give_number(made)
    else:
        grad.made.append((grad.part.number, made))


def _give_number(made: Part | jt.Var) -> None:
    global _number
    if isinstance(made, Part):
        _number += 1
        made.number = _number
    else:
        _last_in_order()(made)


@functools.cache
def _last_in_order() -> Callable[[jt.Var], jt.Var]:
    operation: Callable[[jt.Var], jt.Var] = jt.compiler.compile_custom_op(_HEADER, _SOURCE, "last_in_order")
    return operation


def load() -> None:
    """Compile what keeps the order, once, into Jittor's cache, where there are several ranks."""
    if jt.world_size > 1:
        _last_in_order()


def summed_in_order(variable: jt.Var) -> jt.Var:
    """The sum over all ranks, which is run in its turn; its gradient is Jittor's.

    Args:
        variable: of float32 or float64.
    """
    total: jt.Var = jt.compile_extern.mpi_ops.mpi_all_reduce(variable, "add")
    _take_turn(total)
    return total
