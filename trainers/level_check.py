"""What makes a hypergradient impossible, or zero without a word: looked for before one is taken."""

from __future__ import annotations

from collections.abc import Sequence
import math

from jboat.plain_numbers import plain
import jittor as jt
import numpy as np

_SETTINGS = {"lr", "momentum", "weight_decay", "dampening", "eps", "alpha", "max_grad_norm"}
_BETAS = {jt.optim.Adan: 3}


class LevelCheck:
    """What can be seen to be wrong with the variables and optimizers of both levels.

    Args:
        models: the lower-level and the upper-level model.
        variables: the variables of each.
        optimizers: the optimizer of each.

    Raises:
        ValueError: if a Var is a variable of both levels, naming it.
    """

    def __init__(
        self,
        models: tuple[jt.Module, jt.Module],
        variables: tuple[Sequence[jt.Var], Sequence[jt.Var]],
        optimizers: tuple[jt.optim.Optimizer, jt.optim.Optimizer],
    ) -> None:
        _require_separate(models[0], *variables)
        self._places = [_Places(m, v, level) for m, v, level in zip(models, variables, ("ll", "ul"), strict=True)]
        self._optimizers = dict(zip(("ll_optimizer", "ul_optimizer"), optimizers, strict=True))

    def check(self) -> None:
        """Look at what Jittor or the user may have changed since.

        Raises:
            ValueError: if a variable is stop_grad, its model holds another Var in its place, or a setting of an
                optimizer is out of range.
            TypeError: if a rate of an optimizer is a Var, or no number.
        """
        for places in self._places:
            places.check()
        for name, optimizer in self._optimizers.items():
            _require_numbers(name, optimizer)
            _require_settings(name, optimizer)


def _names(model: jt.Module, variables: Sequence[jt.Var], level: str) -> list[str]:
    """What to call each variable of a level in an error: its name in the model, or its place in the list."""
    known = {id(p): f"{level}_model's parameter {name!r}" for name, p in model.named_parameters()}
    return [known.get(id(v), f"{level}_var[{i}]") for i, v in enumerate(variables)]


def _require_separate(ll_model: jt.Module, ll_var: Sequence[jt.Var], ul_var: Sequence[jt.Var]) -> None:
    """Require that no Var is a variable of both levels, whose hypergradient would be zero.

    Raises:
        ValueError: if one is, naming it.
    """
    upper = {id(v) for v in ul_var}
    shared = [name for name, v in zip(_names(ll_model, ll_var, "ll"), ll_var, strict=True) if id(v) in upper]
    if shared:
        raise ValueError(
            f"both levels train {', '.join(shared)}: a Var can be a variable of one level only. Give ul_model Vars of "
            "its own; for MAML (na_op=['IAD']) make two models of one class, ul_model being the initialisation"
        )


class _Places:
    """Where a level's variables stand in its model, so that one that was replaced is noticed.

    Args:
        model: the level's model.
        variables: the level's variables.
        level: ``"ll"`` or ``"ul"``.
    """

    def __init__(self, model: jt.Module, variables: Sequence[jt.Var], level: str) -> None:
        self._level = level
        self._variables = list(variables)
        self._names = _names(model, variables, level)
        found: dict[int, list[tuple[dict[str, object], str]]] = {}
        for module in model.modules():
            for name, v in vars(module).items():
                found.setdefault(id(v), []).append((vars(module), name))  # tied weights have several
        self._places = [found.get(id(v), []) for v in variables]

    def check(self) -> None:
        """Refuse a variable that can have no gradient any more.

        Raises:
            ValueError: if one is stop_grad, or the model holds another Var in its place.
        """
        for variable, name, places in zip(self._variables, self._names, self._places, strict=True):
            if variable.is_stop_grad():
                raise ValueError(
                    f"{name} is stop_grad and cannot be trained. {self._level}_model.eval() leaves parameters so: call "
                    f"{self._level}_model.train(), or start_grad() on it"
                )
            if any(holder.get(key) is not variable for holder, key in places):
                raise ValueError(
                    f"{name} was replaced by another object after the trainer was made, which trains the one before; "
                    "set its values with assign() instead. Where a hook makes it anew at every call, as weight_norm's "
                    f"does, leave it out of {self._level}_optimizer"
                )


def _require_numbers(name: str, optimizer: jt.optim.Optimizer) -> None:
    """Require an optimizer's rates to be numbers: no gradient flows through them.

    Raises:
        TypeError: if one is a Var, naming it.
    """
    owners = [(f"{name}.", vars(optimizer))]
    owners += [(f"{name}.param_groups[{i}].", group) for i, group in enumerate(optimizer.param_groups)]
    for owner, values in owners:
        for key, value in values.items():
            entries = value if isinstance(value, tuple) else (value,)
            if any(isinstance(entry, jt.Var) for entry in entries):
                raise TypeError(
                    f"{owner}{key} is a jt.Var, which would be taken as a constant; give a number. What the upper "
                    "level is to learn has to stand in ll_objective"
                )


def _require_settings(name: str, optimizer: jt.optim.Optimizer) -> None:
    """Require the settings of Jittor's own optimizers to be what their steps can use.

    Raises:
        TypeError: if one is no number, or ``betas`` no tuple of them.
        ValueError: if a rate is negative or not finite, or a beta outside of [0, 1).
    """
    if type(optimizer).__module__ != jt.optim.__name__:
        return
    for i, group in enumerate([vars(optimizer), *optimizer.param_groups]):
        owner = name if i == 0 else f"{name}.param_groups[{i - 1}]"
        for key in sorted(_SETTINGS & group.keys()):
            _require_number(f"{owner}.{key}", group[key], least=0.0 if key == "lr" else None)
        if "betas" in group:
            _require_betas(f"{owner}.betas", group["betas"], _BETAS.get(type(optimizer), 2))


def _require_number(place: str, value: object, *, least: float | None) -> None:
    number = plain(value)
    if isinstance(number, jt.Var):
        return  # has an error of its own
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise TypeError(f"{place} must be a number, got {value!r}")
    if not math.isfinite(number) or (least is not None and number < least):
        allowed = "a finite number" if least is None else f"a finite number >= {least:g}"
        raise ValueError(f"{place} must be {allowed}, got {value!r}")


def _require_betas(place: str, values: object, count: int) -> None:
    entries = plain(tuple(values)) if isinstance(values, (list, tuple, np.ndarray)) else ()
    if any(isinstance(entry, jt.Var) for entry in entries):
        return
    if len(entries) != count or not all(isinstance(entry, (int, float)) for entry in entries):
        raise TypeError(f"{place} must be {count} numbers, got {values!r}")
    if not all(0.0 <= entry < 1.0 for entry in entries):
        raise ValueError(f"{place} must be numbers in [0, 1), got {values!r}")
