"""The step of x by the user's own optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from jboat import functional
from jboat.backend.jittor_alone import jittor_alone
from jboat.plain_numbers import plain_inside
import jittor as jt


def upper_step(optimizer: jt.optim.Optimizer, variables: list[jt.Var], gradients: list[jt.Var]) -> None:
    """One step of the user's optimizer with these gradients.

    Jittor's optimizers take gradients from a loss alone; the loss ``<x, g>`` has the gradient g.
    """
    jittors = type(optimizer).__module__ == jt.optim.__name__  # others might scale the loss
    loss = functional.start_of_gradient if jittors else functional.dot
    gradients = functional.of_dtypes(functional.detached(gradients), variables)
    with plain_inside([vars(optimizer), *optimizer.param_groups]), jittor_alone():  # ranks have the same gradients
        optimizer.step(functional.differentiable(loss(variables, gradients)))
    lists = [values for group in optimizer.param_groups for values in group.values() if isinstance(values, list)]
    jt.sync([v for values in lists for v in values if isinstance(v, jt.Var)])


@contextmanager
def learning_rate(optimizer: jt.optim.Optimizer, rate: float | None) -> Iterator[None]:
    """Let every parameter group have this learning rate inside the block; None changes nothing."""
    own = [(group, group.get("lr")) for group in optimizer.param_groups]
    if rate is not None:
        for group, _ in own:
            group["lr"] = rate
    try:
        yield
    finally:
        for group, before in own:
            if before is not None:
                group["lr"] = before
            elif rate is not None:
                del group["lr"]
