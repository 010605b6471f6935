"""Check a trainer's arguments before any data is read or any kernel compiled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Literal

from jboat import functional
from jboat.callbacks.argument_checks import count
from jboat.spelling import nearest
from jboat.trainers.data.loaders import check_loader
import jittor as jt
import numpy as np


def choice(name: str, value: Any, allowed: Sequence[str]) -> None:
    """Require one of a few strings.

    Raises:
        ValueError: if it is not one of them.
    """
    if value not in allowed:
        listing = ", ".join(repr(a) for a in allowed)
        raise ValueError(f"{name} must be one of {listing}, got {value!r}.{nearest(value, allowed)}")


def counts(**given: Any) -> None:
    """Require integers of at least 1.

    Raises:
        TypeError: if one is no integer.
        ValueError: if one is smaller.
    """
    for name, value in given.items():
        count(name, value)


def dev_steps(fast_dev_run: Any) -> int:
    """How many outer steps ``fast_dev_run`` asks for; 0 for a run that is none.

    Raises:
        TypeError: if it is neither a bool nor an integer.
        ValueError: for a negative number.
    """
    if isinstance(fast_dev_run, bool) or fast_dev_run is None:
        return int(bool(fast_dev_run))
    if fast_dev_run != 0:
        count("fast_dev_run", fast_dev_run)
    return int(fast_dev_run)


def tasks_together(value: Any) -> int | Literal["auto"]:
    """A positive number, or ``"auto"``.

    Raises:
        TypeError: if it is neither.
        ValueError: for a number that is too small, or another word.
    """
    if isinstance(value, str):
        choice("tasks_together", value, ("auto",))
        return "auto"
    count("tasks_together", value)
    return int(value)


def seed(value: Any) -> int | None:
    """An integer, or None.

    Raises:
        TypeError: if it is neither.
    """
    if value is not None and (not isinstance(value, Integral) or isinstance(value, bool)):
        raise TypeError(f"seed must be an integer or None, got {value!r}")
    return None if value is None else int(value)


def flags(**given: Any) -> None:
    """Require True or False; numpy's, 0 and 1 are as good.

    Raises:
        TypeError: if one is something else, as the string ``"False"``, which counts as true.
    """
    for name, value in given.items():
        if not isinstance(value, (bool, np.bool_, Integral)) or value not in (0, 1):
            raise TypeError(f"{name} must be True or False, got {value!r}")


def functions(objectives: Mapping[str, Any], metrics: Any) -> None:
    """Require functions: of objectives where they are given, and of metrics as a dict.

    Raises:
        TypeError: if one is none.
    """
    if metrics is not None and not isinstance(metrics, Mapping):
        raise TypeError(f"metrics must be a dict of functions by name, got {type(metrics).__name__}")
    named = {**objectives, **{f"metrics[{name!r}]": function for name, function in (metrics or {}).items()}}
    for name, function in named.items():
        if not callable(function) and (function is not None or name not in objectives):
            raise TypeError(f"{name} must be a function, got {function!r}")


def metric_names(metrics: Mapping[str, Any]) -> None:
    """Refuse a metric that would stand in the place of the upper loss.

    Raises:
        ValueError: if one is called so.
    """
    if "ul_loss" in metrics:
        raise ValueError("metrics: 'ul_loss' is the upper loss of an evaluation; give the metric another name")


def limits(*, max_epochs: Any, max_steps: Any, max_time: Any, val_every: Any, val_loader: Any) -> None:
    """Check the limits of ``fit``.

    Raises:
        TypeError: if one is not a number.
        ValueError: if one is too small, or there is nothing to evaluate.
    """
    for name, limit in (("max_epochs", max_epochs), ("max_steps", max_steps), ("val_every", val_every)):
        if limit is not None:
            count(name, limit)
    if max_time is not None and (not isinstance(max_time, Real) or isinstance(max_time, bool)):
        raise TypeError(f"max_time must be positive seconds, got {max_time!r}")
    if max_time is not None and not float(max_time) > 0.0:
        raise ValueError(f"max_time must be positive seconds, got {max_time!r}")
    if val_every is not None and val_loader is None:
        raise ValueError("val_every needs val_loader")


def module(name: str, value: Any) -> None:
    """Require a Jittor module.

    Raises:
        TypeError: if it is none.
    """
    if not isinstance(value, jt.Module):
        raise TypeError(f"{name} must be a jittor Module, got {type(value).__name__}")


def optimizer(name: str, value: Any) -> jt.optim.Optimizer:
    """Require a Jittor optimizer, and return it.

    Raises:
        TypeError: if it is none.
    """
    if not isinstance(value, jt.optim.Optimizer):
        raise TypeError(
            f"{name} must be a jittor optimizer such as jt.optim.SGD, got {type(value).__name__}; "
            "pass it to the constructor or return it from configure_optimizers()"
        )
    return value


def variables(
    level: str, given: Sequence[jt.Var] | None, model: jt.Module, model_optimizer: jt.optim.Optimizer
) -> list[jt.Var]:
    """The variables of a level: those given, else the model's trainable parameters that the optimizer holds.

    Args:
        level: ``"ll"`` or ``"ul"``.
        given: the argument ``ll_var`` or ``ul_var``.
        model: the level's model.
        model_optimizer: the level's optimizer.

    Raises:
        TypeError: if an entry is not a Var of floating-point type.
        ValueError: if the list is empty, repeats a Var, or is not what the optimizer holds.
    """
    if given is not None and not isinstance(given, (list, tuple)):
        raise TypeError(f"{level}_var must be a list of Vars, got {type(given).__name__}")
    held = [p for group in model_optimizer.param_groups for p in group["params"] if not p.is_stop_grad()]
    held_ids = {id(p) for p in held}
    trainable = functional.trainable(model)
    chosen = list(given) if given is not None else [p for p in trainable if id(p) in held_ids]
    if given is None and not chosen:
        frozen = {id(p) for group in model_optimizer.param_groups for p in group["params"]} - held_ids
        if frozen & {id(p) for p in model.parameters() if functional.is_float(p)}:
            raise ValueError(
                f"every parameter of {level}_model that {level}_optimizer holds is stop_grad, as {level}_model.eval() "
                f"leaves them; call {level}_model.train() before you make the trainer"
            )
        raise ValueError(
            f"{level}_optimizer holds none of {level}_model's trainable parameters; "
            f"make it from {level}_model.parameters()"
        )
    if not chosen:
        raise ValueError(f"{level}_var is empty; it must hold at least one Var")
    for i, v in enumerate(chosen):
        if not isinstance(v, jt.Var):
            raise TypeError(f"{level}_var[{i}] must be a jt.Var, got {type(v).__name__}")
        if not functional.is_float(v):
            raise TypeError(f"{level}_var[{i}] has dtype {v.dtype}; only floating-point Vars can be optimized")
        if v.is_stop_grad():
            raise ValueError(
                f"{level}_var[{i}] is stop_grad, as eval() of its module leaves it; call train() of that module, or "
                "start_grad() on it, before building the optimizer"
            )
    chosen_ids = {id(v) for v in chosen}
    if len(chosen_ids) < len(chosen):
        raise ValueError(f"{level}_var names the same Var twice; name each Var once")
    if not chosen_ids <= held_ids:
        raise ValueError(f"{level}_optimizer does not hold every entry of {level}_var; make it from that list")
    foreign = len(held_ids - chosen_ids)
    if foreign:
        where = f"{level}_var" if given is not None else f"{level}_model"
        raise ValueError(
            f"{level}_optimizer holds {foreign} parameter(s) that are not in {where}; "
            f"make it from {level}_model.parameters(), or pass the list as {level}_var"
        )
    return chosen


def fit_arguments(
    ll_loader: Any,
    ul_loader: Any,
    val_loader: Any,
    val_every: Any,
    max_epochs: Any,
    max_steps: Any,
    max_time: Any,
) -> None:
    """Check what ``fit`` is called with, without reading from a loader.

    Raises:
        TypeError: for a limit or a loader of a wrong kind.
        ValueError: for a limit out of range, an empty loader, or ``val_every`` without ``val_loader``.
    """
    limits(max_epochs=max_epochs, max_steps=max_steps, max_time=max_time, val_every=val_every, val_loader=val_loader)
    check_loader(ll_loader, "ll_loader")
    check_loader(ul_loader, "ul_loader")
    if val_loader is not None:
        check_loader(val_loader, "val_loader")


def same_structure(operator: str, ll_var: Sequence[jt.Var], ul_var: Sequence[jt.Var]) -> None:
    """Require the two lists to match, as IAD and operators like it need.

    Raises:
        ValueError: if they differ in number, shape or dtype.
    """
    shapes = [[(list(v.shape), str(v.dtype)) for v in level] for level in (ll_var, ul_var)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"na_op {operator} needs ul_model and ll_model of equal structure: ll_model has parameters "
            f"{shapes[0]}, ul_model has {shapes[1]}"
        )
