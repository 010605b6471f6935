"""The order in which ranks run their reductions, which has to be the same on all of them.

Jittor runs what is ready in the order in which it was made, fused with its neighbours, and how it fuses depends on
shapes: a rank with a part of one sample may compute one of two reductions' terms later than others do. So reductions
run after everything else that is ready, whatever that is, and among each other in the order in which they were made.
"""

from __future__ import annotations

from collections.abc import Callable
import functools

import jittor as jt

# The place that an operation was made in is its number; Jittor has no other way to say when it is to run.
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


@functools.cache
def _last_in_order() -> Callable[[jt.Var], jt.Var]:
    operation: Callable[[jt.Var], jt.Var] = jt.compiler.compile_custom_op(_HEADER, _SOURCE, "last_in_order")
    return operation


@functools.cache
def _reduction() -> Callable[[jt.Var, str], jt.Var]:
    """Jittor's own, before anything else is put in its place."""
    reduction: Callable[[jt.Var, str], jt.Var] = jt.compile_extern.mpi_ops.mpi_all_reduce
    return reduction


def load() -> None:
    """Compile what keeps the order, once, into Jittor's cache, where there are several ranks."""
    if jt.world_size > 1:
        _last_in_order()


def summed_in_order(variable: jt.Var) -> jt.Var:
    """The sum over all ranks, which is run in its turn; its gradient is Jittor's.

    Args:
        variable: of float32 or float64.
    """
    return _last_in_order()(_reduction()(variable, "add"))
