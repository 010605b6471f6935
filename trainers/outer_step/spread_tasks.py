"""One outer step of the tasks that all ranks have done, each its own."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import json
from typing import TYPE_CHECKING

from jboat import functional
from jboat.backend import ranks
from jboat.outer_step import OuterStep
from jboat.trainers.errors import NonFiniteError
import jittor as jt

if TYPE_CHECKING:
    from jboat.trainers.data.sharding import TaskShare


def mean_over_ranks(found: OuterStep, share: TaskShare, statistics: Sequence[jt.Var]) -> OuterStep:
    """The average over all tasks, left out if one of them is.

    Iterates, states and running statistics are those of the last one.

    Args:
        found: the average over this rank's tasks.
        share: which of all tasks those were.
        statistics: the models' running statistics, which are moved to where the last task left them.
    """
    initial, last = found.ll_init_gradient or [], share.last_rank
    gradients = _weighted_mean([*found.gradients, *initial], share)
    names = sorted(found.diagnostics)
    numbers = [found.upper_loss, found.lower_loss, *(found.diagnostics[name] for name in names)]
    upper_loss, lower_loss, *rest = ranks.mean_of(numbers, share.counts[ranks.rank()])
    diagnostics = dict(zip(names, rest, strict=True))
    ll_state = found.ll_state
    slots = [] if ll_state is None else [slot for of_variable in ll_state.slots for slot in of_variable]
    lists = [found.ll_parameters, found.upper_loss_at, *found.auxiliary.values(), slots]
    copies = [[v.detach() for v in values] for values in lists]
    ranks.broadcast([*statistics, *(v for values in copies for v in values)], root=last)
    ll_parameters, upper_loss_at, *auxiliary, slots = copies
    failure, skip = _of_any(found.failure, skip=found.skip)
    return dataclasses.replace(
        found,
        gradients=gradients[: len(found.gradients)],
        ll_init_gradient=gradients[len(found.gradients) :] if initial else found.ll_init_gradient,
        upper_loss=upper_loss,
        lower_loss=lower_loss,
        diagnostics={name: diagnostics[name] for name in found.diagnostics},
        ll_losses=ranks.gathered(found.ll_losses)[last],
        ll_parameters=ll_parameters,
        upper_loss_at=upper_loss_at,
        auxiliary=dict(zip(found.auxiliary, auxiliary, strict=True)),
        ll_state=None if ll_state is None else ll_state.with_slots(slots),
        failure=failure,
        skip=skip,
    )


def _weighted_mean(gradients: Sequence[jt.Var], share: TaskShare) -> list[jt.Var]:
    weight = share.weight * ranks.size()
    scaled = list(gradients) if weight == 1.0 else functional.cut([v * weight for v in gradients])
    return functional.cut(ranks.mean(scaled))


def _of_any(own: ArithmeticError | None, *, skip: bool) -> tuple[ArithmeticError | None, bool]:
    """What is not finite in the tasks of the first rank that has found something, and whether a rank skips the step."""
    rows = ranks.gathered([float(own is not None), float(skip)])
    failed, skip = [rank for rank, (there, _) in enumerate(rows) if there], any(row[1] for row in rows)
    if not failed:
        return None, skip
    told = {"what": str(own), "operator": "", "step": 0, "inner_step": None}
    if isinstance(own, NonFiniteError):
        told |= {name: getattr(own, name) for name in told}
    return NonFiniteError(**json.loads(ranks.broadcast_bytes(json.dumps(told).encode(), root=failed[0]))), skip
