"""Both levels as operators call them: objectives of a batch and of both models, what they take and what they return."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from jboat import params_argument
import jittor as jt

Objective: TypeAlias = "Callable[..., jt.Var]"
Batch = Mapping[str, Any]


def call(objective: Objective, *args: Any, parameters: Sequence[jt.Var]) -> jt.Var:
    """Call an objective as :func:`result_of` does, and check what it returns.

    Args:
        objective: the function.
        args: its arguments, the lower-level model last.
        parameters: those of the model's Vars that the lower level optimizes.

    Raises:
        TypeError: if it returns something other than a Var.
        ValueError: if it returns more than one number.
    """
    loss = result_of(objective, *args, parameters=parameters)
    name = getattr(objective, "__name__", type(objective).__name__)
    if not isinstance(loss, jt.Var):
        raise TypeError(f"{name} must return a scalar jt.Var, got {type(loss).__name__}")
    if loss.numel() != 1:
        raise ValueError(f"{name} must return a scalar, got shape {list(loss.shape)}; take its mean() or sum()")
    return loss


def result_of(function: Callable[..., Any], *args: Any, parameters: Sequence[jt.Var]) -> Any:
    """Call a function of a batch and both models: an objective or a metric.

    It is handed the models themselves, and ``params=`` where its signature takes it, by name or as one of
    ``**kwargs``. The lower-level model can then be called with ``params=`` too, whatever its own signature is.

    Args:
        function: the function.
        args: its arguments, the lower-level model last.
        parameters: those of the model's Vars that the lower level optimizes, handed on as ``params``. They hold the
            iterate in question.
    """
    if not any(params_argument.signature_of(function)):
        return function(*args)
    with params_argument.accepted(args[-1], parameters):
        return function(*args, params=list(parameters))


def batch_of_step(feed: Batch | Sequence[Batch], step: int) -> Batch:
    """The lower batch of an inner step: ``feed`` itself, or its entry when there is one per step."""
    return feed if isinstance(feed, Mapping) else feed[step]
