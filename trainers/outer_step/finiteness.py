"""What of an outer step is NaN or infinite."""

from __future__ import annotations

from collections.abc import Sequence
import math

from jboat import functional
from jboat.outer_step import OuterStep
from jboat.projections import name_of
from jboat.trainers.errors import NonFiniteError
from jboat.trajectory import Trajectory
import jittor as jt
import numpy as np


def failure_of(found: OuterStep, operator: str, step: int) -> ArithmeticError | None:
    """What of an outer step is NaN or infinite: a lower loss, y, the upper loss or a gradient.

    Args:
        found: what the step yields.
        operator: the operator that gave the direction of x.
        step: the outer step, counted from 1.
    """
    if found.failure is not None:
        return found.failure
    if not math.isfinite(found.upper_loss):
        return NonFiniteError(f"the upper loss is {found.upper_loss}", operator=operator, step=step)
    if not math.isfinite(found.norm) and not finite(found.gradients):
        return NonFiniteError("the hypergradient is not finite", operator=operator, step=step)
    if found.ll_init_gradient is not None and not finite(found.ll_init_gradient):
        return NonFiniteError("the gradient by y_0 is not finite", operator=operator, step=step)
    return None


def kept_failure(found: OuterStep, operator: str, step: int) -> ArithmeticError | None:
    """What of a step that moves all at once is NaN or infinite in y or in what is kept for the next step.

    Args:
        found: what the step yields.
        operator: the method.
        step: the outer step, counted from 1.
    """
    names = (name for name, kept in found.auxiliary.items() if not finite(kept))
    name = "y" if not finite(found.ll_parameters) else next(names, None)
    return (
        None if name is None else NonFiniteError(f"{name} is not finite after the step", operator=operator, step=step)
    )


def lower_loop_failure(operator: str, step: int, lower_loss: float, trajectory: Trajectory) -> NonFiniteError | None:
    """What of a lower loop is NaN or infinite, and since when."""
    last = len(trajectory)
    failure = lower_failure(operator, step, last, lower_loss, trajectory.parameters(last))
    if failure is None:
        return None
    inner_step = next((k for k in range(1, last) if not finite(trajectory.parameters(k))), last)
    if trajectory.projection is not None and not finite(trajectory.parameters(inner_step)):
        before = [trajectory.parameters(inner_step - 1), trajectory.unprojected(inner_step - 1)]
        if all(finite(values) for values in before):
            what = f"ll_projection ({name_of(trajectory.projection)}) returned what is not finite"
            return NonFiniteError(what, operator=operator, step=step, inner_step=inner_step)
    return failure if inner_step == last else _not_finite(operator, step, inner_step)


def lower_failure(
    operator: str, step: int, inner_step: int, loss: float, after: Sequence[jt.Var]
) -> NonFiniteError | None:
    """What is NaN or infinite of the loss before a lower step, and of the variables after it."""
    if not math.isfinite(loss):
        return NonFiniteError(f"the lower loss is {loss}", operator=operator, step=step, inner_step=inner_step)
    return None if finite(after) else _not_finite(operator, step, inner_step)


def _not_finite(operator: str, step: int, inner_step: int) -> NonFiniteError:
    what = "the lower-level variables are not finite"
    return NonFiniteError(what, operator=operator, step=step, inner_step=inner_step)


def finite(variables: Sequence[jt.Var]) -> bool:
    """Whether every entry is finite.

    Jittor's own ``isfinite`` is compiled with fast-math, and wrong. One number from the device, the sum of squares,
    tells of finite entries; where it is not finite, it may have overflowed, and numpy looks at every entry.
    """
    if math.isfinite(functional.dot(variables, variables).item()):
        return True
    return all(np.isfinite(v.numpy()).all() for v in variables)
