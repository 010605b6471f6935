"""The directions of y, v and x at a point: one place, whatever a method makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

from jboat import autodiff, functional
from jboat.fo_ol.first_order import Chainless
from jboat.levels import Batch
import jittor as jt


class Point(NamedTuple):
    """Where directions are taken: leaves, or for x the variables of the upper level themselves.

    Attributes:
        x: one Var per upper-level variable.
        y: one Var per lower-level variable.
        v: the present solution of ``(d2 f / dy2) v = grad_y F``, one Var per lower-level variable.
    """

    x: list[jt.Var]
    y: list[jt.Var]
    v: list[jt.Var]


class Directions(NamedTuple):
    """Along which y, v and x move.

    Attributes:
        y: ``grad_y f``.
        v: ``(d2 f / dy2) v - grad_y F``.
        x: ``grad_x F - (d2 f / dx dy) v``.
    """

    y: list[jt.Var]
    v: list[jt.Var]
    x: list[jt.Var]


@dataclass
class LowerTerms:
    """What the lower objective adds, on one batch or on average over several.

    Attributes:
        by_y: ``grad_y f``.
        hessian_v: ``(d2 f / dy2) v``.
        mixed_v: ``(d2 f / dx dy) v``.
    """

    by_y: list[jt.Var]
    hessian_v: list[jt.Var]
    mixed_v: list[jt.Var]


@dataclass
class UpperTerms:
    """What the upper objective adds, on one batch or on average over several.

    Attributes:
        by_y: ``grad_y F``.
        by_x: ``grad_x F``.
    """

    by_y: list[jt.Var]
    by_x: list[jt.Var]


def lists_of(terms: LowerTerms | UpperTerms) -> list[list[jt.Var]]:
    """The lists that terms consist of, in the order in which their class takes them."""
    return [getattr(terms, field.name) for field in fields(terms)]


class Losses(NamedTuple):
    """f and F at a point."""

    lower: jt.Var
    upper: jt.Var


def directions(lower: LowerTerms, upper: UpperTerms) -> Directions:
    """The directions that terms make, not computed yet."""
    return Directions(
        lower.by_y,
        functional.axpy(-1.0, upper.by_y, lower.hessian_v),
        functional.axpy(-1.0, lower.mixed_v, upper.by_x),
    )


def upper_terms(method: Chainless, point: Point, batch: Batch) -> tuple[UpperTerms, jt.Var]:
    """The upper objective's terms and F itself, not computed yet."""
    with functional.substituted(method.ul_var, point.x):
        loss = method.upper_value(point.y, batch)
    found = functional.detached(autodiff.grad(loss, [*point.y, *point.x]))
    count = len(point.y)
    return UpperTerms(found[:count], found[count:]), loss.detach()


def lower_gradient(method: Chainless, point: Point, batch: Batch) -> tuple[list[jt.Var], jt.Var]:
    """``grad_y f`` with its graph, for products with its derivatives, and f itself; not computed yet.

    f includes the lower optimizer's coupled weight decay here, the loss that is returned does not.
    """
    with functional.substituted(method.ul_var, point.x):
        loss, phi = method.lower_values(point.y, batch)
    return autodiff.grad(phi, point.y), loss.detach()


def lower_terms(point: Point, gradient: Sequence[jt.Var]) -> LowerTerms:
    """The lower objective's terms, not computed yet: one more derivative gives both products with v."""
    products = functional.detached(autodiff.vjp(gradient, [*point.y, *point.x], point.v))
    count = len(point.y)
    return LowerTerms(functional.detached(gradient), products[:count], products[count:])


def terms_at(
    method: Chainless, point: Point, lower_batch: Batch, upper_batch: Batch
) -> tuple[LowerTerms, UpperTerms, Losses]:
    """All terms on a pair of batches, of which the products with v are not computed yet."""
    upper, upper_loss = upper_terms(method, point, upper_batch)
    gradient, lower_loss = lower_gradient(method, point, lower_batch)
    jt.sync([upper_loss, lower_loss, *upper.by_y, *upper.by_x, *gradient])
    return lower_terms(point, gradient), upper, Losses(lower_loss, upper_loss)


def directions_at(method: Chainless, point: Point, lower_batch: Batch, upper_batch: Batch) -> Directions:
    """The directions on a pair of batches where neither loss is wanted; they are let go, and so not computed."""
    upper = upper_terms(method, point, upper_batch)[0]
    gradient = lower_gradient(method, point, lower_batch)[0]
    jt.sync([*upper.by_y, *upper.by_x, *gradient])
    return directions(lower_terms(point, gradient), upper)


def mean_terms(
    method: Chainless, point: Point, lower_batches: Sequence[Batch], upper_batches: Sequence[Batch]
) -> tuple[LowerTerms, UpperTerms, Losses]:
    """All terms on average over several batches of each level, computed batch by batch."""
    lower: list[list[jt.Var]] = []
    upper: list[list[jt.Var]] = []
    lower_loss = upper_loss = jt.zeros(1)
    for batch in lower_batches:
        gradient, loss = lower_gradient(method, point, batch)
        jt.sync([loss, *gradient])
        lower = _added(lower, lists_of(lower_terms(point, gradient)), len(lower_batches))
        lower_loss = lower_loss + loss / len(lower_batches)
    for batch in upper_batches:
        terms, loss = upper_terms(method, point, batch)
        jt.sync([loss, *terms.by_y, *terms.by_x])
        upper = _added(upper, lists_of(terms), len(upper_batches))
        upper_loss = upper_loss + loss / len(upper_batches)
    return LowerTerms(*lower), UpperTerms(*upper), Losses(lower_loss.detach(), upper_loss.detach())


def _added(total: list[list[jt.Var]], terms: list[list[jt.Var]], count: int) -> list[list[jt.Var]]:
    start = total or [[jt.zeros_like(v) for v in part] for part in terms]
    return functional.cut_lists(
        *(functional.axpy(1.0 / count, part, so_far) for part, so_far in zip(terms, start, strict=True))
    )
