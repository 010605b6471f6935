"""Values that are the same on all ranks, and what each rank makes of them by itself, with derivatives of any order.

In the language of tensor parallelism :func:`shared` and :func:`summed` are the pair of operations around a part of the
computation that is another one on each rank. The first passes values on and sums derivatives, the second sums values
and passes derivatives on, so that each is the other's derivative. With one rank both do nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, TypeAlias

from jboat.backend import collective_order, ranks
import jittor as jt

Operation: TypeAlias = "Callable[[Sequence[jt.Var]], list[jt.Var]]"


def shared(variables: Sequence[jt.Var]) -> list[jt.Var]:
    """The same values, for a part of the computation that is another one on each rank.

    Going backwards the derivatives of all ranks are summed, by one reduction. What is differentiated so any number of
    times is the sum of all ranks' functions of ``variables``, if that sum is taken by :func:`summed`.

    Args:
        variables: floating-point Vars that hold the same values on all ranks.
    """
    return taped(variables, list, summed, may_wait=True)


def summed(variables: Sequence[jt.Var]) -> list[jt.Var]:
    """The sums over all ranks, by one reduction; going backwards every rank's derivative is that of the sum.

    Args:
        variables: floating-point Vars, others on each rank, of the same shapes.
    """
    return taped(variables, ranks.total, shared)


class LaterSums(AbstractContextManager["LaterSums", None]):
    """Derivatives by shared variables that several calls of ``grad`` add up before they are reduced, once.

    Inside the block ``grad`` leaves out of the derivatives by ``variables`` whatever comes by way of :func:`shared`,
    and keeps it here. With one rank nothing does.

    Args:
        variables: leaf Vars.
    """

    def __init__(self, variables: Sequence[jt.Var]) -> None:
        self._variables = list(variables)
        self._places = {v.id: i for i, v in enumerate(variables)}
        self._kept: list[jt.Var | None] = [None] * len(variables)

    def __enter__(self) -> LaterSums:
        self._before = _waiting.set(self)
        return self

    def __exit__(self, *exception: object) -> None:
        _waiting.reset(self._before)

    def keeps(self, nodes: Sequence[int]) -> bool:
        """Whether there are some of its variables among the nodes of a graph."""
        return any(node in self._places for node in nodes)

    def keep(self, nodes: Sequence[int], derivatives: Sequence[jt.Var | None]) -> None:
        """Add this rank's derivatives by what may be its variables."""
        for node, derivative in zip(nodes, derivatives, strict=True):
            place = self._places.get(node)
            if place is not None and derivative is not None:
                kept = self._kept[place]
                self._kept[place] = derivative if kept is None else kept + derivative

    def pending(self) -> list[jt.Var]:
        """What was kept so far, to be cut together with other results."""
        return [kept for kept in self._kept if kept is not None]

    def cut(self, pending: Sequence[jt.Var]) -> None:
        """Go on from what :meth:`pending` gave, cut."""
        leaves = iter(pending)
        self._kept = [None if kept is None else next(leaves) for kept in self._kept]

    def added_to(self, derivatives: Sequence[jt.Var]) -> list[jt.Var]:
        """The derivatives by all variables with what was kept for them, reduced."""
        places = [i for i, kept in enumerate(self._kept) if kept is not None]
        found = list(derivatives)
        for i, total in zip(places, ranks.total(self.pending()), strict=True):
            found[i] = found[i] + total
        return found


_waiting: ContextVar[LaterSums | None] = ContextVar("where derivatives wait to be reduced", default=None)


def taped(
    variables: Sequence[jt.Var], forward: Operation, backward: Operation, *, may_wait: bool = False
) -> list[jt.Var]:
    """``forward`` of variables, whose derivative is ``backward`` of the derivatives of what it returns.

    Args:
        variables: floating-point Vars.
        forward: a function of their values, which need not have a gradient.
        backward: a function of as many derivatives, some of which may be left out.
        may_wait: whether derivatives may wait in a :class:`LaterSums`.
    """
    if ranks.size() == 1:
        return list(variables)
    tracked = [i for i, v in enumerate(variables) if not v.is_stop_grad()]
    if jt.flags.no_grad or not tracked:
        return forward(variables)
    part, nodes = collective_order.Part(), [v.id for v in variables]
    inputs = list(variables)
    for i in tracked:
        # The first of two steps is there since a product of None, as of a variable that is not used, takes from
        # Jittor's ``grad`` what it has found for that variable elsewhere.
        inputs[i] = inputs[i].tape().tape()
    outputs = [v.tape() for v in forward(inputs)]

    def pulled_back(*cotangents: jt.Var | None) -> list[Any]:
        waiting = _waiting.get() if may_wait else None
        if waiting is not None and waiting.keeps(nodes):
            waiting.keep(nodes, cotangents)
            return [None for _ in tracked]
        there = [c for c in cotangents if c is not None]
        with collective_order.derivative_of(part):
            found = iter(backward(there) if there else [])
        products = [None if c is None else next(found) for c in cotangents]
        return [products[i] for i in tracked]

    # What is in between has no gradient of its own: Jittor's own reduction would be differentiated as a sum of losses.
    jt.tape_together([inputs[i] for i in tracked], outputs, pulled_back)
    return outputs
