"""A sum of terms and its first two derivatives, one term's graph at a time.

What is computed of a sum in Jittor's own graph takes the memory of all terms together, and so does whatever is kept of
it to be differentiated. Here each term is computed, differentiated and let go before the next. The sum is an operation
whose derivative is one too, whose derivative runs the terms once more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias
import zlib

from jboat import autodiff, functional, running_statistics
from jboat.trial_calls import on_trial
import jittor as jt

Term: TypeAlias = "Callable[[], jt.Var]"
Wanted: TypeAlias = "Callable[[jt.Var, list[jt.Var]], list[jt.Var]]"
_LIMIT = 2**31 - 1
DRAWS_OF_A_SUM = 1
"""How often :func:`summed` itself asks for random numbers."""


def summed(
    terms: Sequence[Term],
    weights: Sequence[float],
    variables: Sequence[jt.Var],
    statistics: Sequence[jt.Var],
    *,
    again: Callable[[], None] = lambda: None,
) -> jt.Var:
    """The weighted sum of the terms, a scalar, which can be differentiated twice.

    Args:
        terms: scalar functions of the variables, called while these hold the point in question.
        weights: one number a term.
        variables: what the sum is differentiated by; nothing else that the terms depend on is.
        statistics: what the terms change, such as running statistics. Each term starts from the same, and they end as
            the mean by these weights.
        again: called whenever the terms are run once more.

    Returns:
        A scalar Var. Its third derivatives raise NotImplementedError.
    """
    inputs = [functional.alias(v) for v in variables]
    work = _Terms(terms, weights, variables, inputs, statistics, again)
    tracked = [i for i, v in enumerate(inputs) if not v.is_stop_grad()]
    if jt.flags.no_grad or not tracked:
        return work.value()
    value, gradients = work.value_and_gradients()

    def by_inputs(cotangent: jt.Var | None) -> list[jt.Var | None]:
        return [None] * len(tracked) if cotangent is None else _gradient(work, inputs, tracked, gradients, cotangent)

    return _operation([inputs[i] for i in tracked], [value], by_inputs)[0]


def _gradient(
    work: _Terms, inputs: Sequence[jt.Var], tracked: Sequence[int], gradients: Sequence[jt.Var], cotangent: jt.Var
) -> list[jt.Var | None]:
    """``cotangent`` times the gradient, which can be differentiated once."""
    factor, own = cotangent.detach(), [gradients[i] for i in tracked]
    values = functional.of_dtypes([factor * g for g in own], own)
    depends = [] if cotangent.is_stop_grad() else [cotangent]
    sources = [inputs[i] for i in tracked]

    def by_all(*vectors: jt.Var | None) -> list[jt.Var | None]:
        there = [(i, g, v) for i, g, v in zip(tracked, own, vectors, strict=True) if v is not None]
        if not there:
            return [None] * (len(depends) + len(tracked))
        gs = [g for _, g, _ in there]
        vs = functional.of_dtypes(functional.cut([v for *_, v in there]), gs)
        products = work.products([i for i, *_ in there], vs)
        found = functional.of_dtypes([factor * products[i] for i in tracked], own)
        by_factor = functional.of_dtypes([functional.dot(gs, vs)], depends) if depends else []
        return [*by_factor, *_operation(sources, found, _refuse)]

    return list(_operation([*depends, *sources], values, by_all))


def _refuse(*cotangents: jt.Var | None) -> list[jt.Var | None]:
    raise NotImplementedError(
        "lower_micro_batches: a third derivative of the lower objective is asked for, and only two are computed in "
        "parts; leave lower_micro_batches out"
    )


def _operation(inputs: Sequence[jt.Var], values: Sequence[jt.Var], derivative: Callable[..., Any]) -> list[jt.Var]:
    """The values as functions of the inputs, with this derivative: one or None an input, given one or None a value."""
    # The first of two steps is there since a derivative of None takes from Jittor's grad what it has found elsewhere.
    taped = [v.tape().tape() for v in inputs]
    results = [v.tape() for v in values]
    jt.tape_together(taped, results, derivative)
    return results


class _Terms:
    """The terms at a point. Their random numbers of Jittor's generator are the same in every pass."""

    def __init__(
        self,
        terms: Sequence[Term],
        weights: Sequence[float],
        variables: Sequence[jt.Var],
        point: Sequence[jt.Var],
        statistics: Sequence[jt.Var],
        again: Callable[[], None],
    ) -> None:
        self._terms, self._weights, self._again = terms, weights, again
        self._variables, self._statistics = variables, statistics
        self._point = functional.cut(point)
        self._before = running_statistics.noted(statistics)
        # numbers of Jittor's own, which also tell whoever watches that what comes is computed when it is built; two,
        # since one has 2^24 values, of which some thousand passes would meet one again, and with it all that follow
        self._seed = jt.random((2,)).numpy().tolist()

    def value(self) -> jt.Var:
        """The sum."""
        return self._first(lambda loss, leaves: [loss])[0]

    def value_and_gradients(self) -> tuple[jt.Var, list[jt.Var]]:
        """The sum, and its derivatives by all variables."""
        value, *gradients = self._first(lambda loss, leaves: [loss, *autodiff.grad(loss, leaves)])
        return value, gradients

    def products(self, places: Sequence[int], vectors: Sequence[jt.Var]) -> list[jt.Var]:
        """The Hessian times vectors, which are given for the variables at some places."""

        def wanted(loss: jt.Var, leaves: list[jt.Var]) -> list[jt.Var]:
            gradients = autodiff.grad(loss, leaves)
            return autodiff.vjp([gradients[i] for i in places], leaves, vectors)

        self._again()
        with functional.preserved(self._statistics), on_trial():
            return self._pass(wanted, "back")[0]

    def _first(self, wanted: Wanted) -> list[jt.Var]:
        found, after = self._pass(wanted, "on")
        self._take_over(after)
        return found

    def _pass(self, wanted: Wanted, name: str) -> tuple[list[jt.Var], list[list[jt.Var]]]:
        """The sums of what is wanted of each term, and the statistics after each."""
        total, after = list[jt.Var](), list[list[jt.Var]]()
        for k, (term, weight) in enumerate(zip(self._terms, self._weights, strict=True)):
            running_statistics.put(self._statistics, self._before)
            jt.set_seed(self._derived(str(k)))
            leaves = functional.detached(self._point)
            with functional.substituted(self._variables, leaves):
                loss = weight * term()
            found = wanted(loss, leaves)
            del loss  # one that is held is computed with the rest
            after.append(running_statistics.noted(self._statistics))
            sums = functional.axpy(1.0, found, total) if total else found
            total = functional.cut(sums, together_with=after[-1])
            del found, sums, leaves  # and with them the term's graph
        jt.set_seed(self._derived(name))
        return total, after

    def _derived(self, name: str) -> int:
        return zlib.crc32(f"{self._seed} {name}".encode()) % _LIMIT

    def _take_over(self, after: Sequence[Sequence[jt.Var]]) -> None:
        """Let the statistics be the mean of what the terms have made of them; integers are those of the last term."""
        running_statistics.put(self._statistics, after[-1])
        for i, (variable, before) in enumerate(zip(self._statistics, self._before, strict=True)):
            values = [statistics[i] for statistics in after]
            if functional.is_float(variable) and any(v.id != before.id for v in values):
                shares = [weight * v for weight, v in zip(self._weights, values, strict=True)]
                mean = functional.of_dtypes([sum(shares[1:], shares[0])], [variable])
                variable.swap(functional.cut(mean)[0].stop_grad())
