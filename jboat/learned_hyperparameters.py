"""The lower optimizer's numbers as functions of the upper model, so that they can be learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import math
from typing import Any, TypeAlias

from jboat import autodiff, functional
from jboat.optim import UpdateRule
from jboat.spelling import nearest
import jittor as jt
import numpy as np

HyperparameterFunction: TypeAlias = "Callable[[jt.Module], Any]"

NAMES = ("lr", "momentum", "weight_decay", "betas")


class LearnedHyperparameters:
    """Some of the lower optimizer's numbers, computed from the upper model anew for every lower step.

    Args:
        functions: by name, among :data:`NAMES`; each takes the upper model and returns a Var with one number for all
            variables, or a list with one such Var per variable, or a Var with one entry per variable. For ``betas``
            it returns a tuple of Vars, or a Var with as many entries, or a list of these with one per variable.
        ul_model: the upper model.
        rule: the rule of the lower optimizer.

    Raises:
        TypeError: if ``functions`` is no mapping of callables.
        ValueError: for a number that the optimizer has not, or a momentum where it keeps no velocity.
    """

    def __init__(self, functions: Mapping[str, HyperparameterFunction], ul_model: jt.Module, rule: UpdateRule) -> None:
        if not isinstance(functions, Mapping):
            raise TypeError(
                f"ll_hyperparameters must be a dict of functions of the upper model, got {type(functions).__name__}"
            )
        in_force = rule.hyperparameters()
        valid = [name for name in NAMES if name in in_force[0]]
        for name, function in functions.items():
            if name not in valid:
                raise ValueError(
                    f"ll_hyperparameters has no {name!r} with {rule.optimizer_name}; it may have {', '.join(valid)}."
                    f"{nearest(name, valid)}"
                )
            if not callable(function):
                raise TypeError(f"ll_hyperparameters[{name!r}] must be a function of the upper model, got {function!r}")
        if "momentum" in functions and not all(h["momentum"] for h in in_force):
            raise ValueError(
                f"ll_hyperparameters['momentum']: {rule.optimizer_name} keeps no velocity where its own momentum is 0; "
                "make the optimizer with a positive one, in whose place the learned one comes"
            )
        self._functions = dict(functions)
        self._ul_model = ul_model
        self._statistics = functional.buffers(ul_model)
        self._betas = len(in_force[0]["betas"]) if "betas" in functions else 0
        self._count = len(in_force)

    @property
    def names(self) -> list[str]:
        """What is learned."""
        return list(self._functions)

    def values(self) -> list[dict[str, Any]]:
        """The numbers of each variable with their graphs: Vars of shape ``[1]``, and for ``betas`` tuples of these.

        The upper model's running statistics stay as they are.

        Raises:
            TypeError: if a function returns something other than Vars.
            ValueError: if it returns another number of them.
        """
        found: list[dict[str, Any]] = [{} for _ in range(self._count)]
        for name, function in self._functions.items():
            entries = 1 if name != "betas" else self._betas
            with functional.preserved(self._statistics):
                given = function(self._ul_model)
            for of_variable, value in zip(found, self._per_variable(name, given, entries), strict=True):
                of_variable[name] = value[0] if name != "betas" else tuple(value)
        return found

    def numbers(self, step: int) -> dict[str, list[float]]:
        """The numbers by name, one after another, checked.

        Args:
            step: the outer step, counted from 1, for the error.

        Raises:
            ArithmeticError: if one is not finite.
            ValueError: if one is out of range.
        """
        found: dict[str, list[float]] = {}
        for name, values in self._by_name(self.values()).items():
            found[name] = [float(entry.item()) for entry in values]
            for i, number in enumerate(found[name]):
                below_one = name in ("betas", "momentum")
                if not math.isfinite(number) or number < 0.0 or (below_one and number >= 1.0):
                    allowed = "in [0, 1)" if below_one else "a finite number >= 0"
                    place = f" of variable {i * self._count // len(values)}" if self._count > 1 else ""
                    error = ValueError if math.isfinite(number) else ArithmeticError
                    raise error(
                        f"ll_hyperparameters[{name!r}]{place} is {number:g} at outer step {step}; it must be "
                        f"{allowed}. A function such as exp or sigmoid of a parameter stays in range"
                    )
        return found

    def idle(self, ul_var: Sequence[jt.Var]) -> list[str]:
        """The names of those whose derivative by every upper-level variable is exactly zero now."""
        found = []
        for name, values in self._by_name(self.values()).items():
            total = sum(entry.sum() for entry in values)
            if total.is_stop_grad() or not any(g.numpy().any() for g in autodiff.grad(total, ul_var)):
                found.append(name)
        return found

    def _by_name(self, values: list[dict[str, Any]]) -> dict[str, list[jt.Var]]:
        """The entries of all variables, one after another."""
        found: dict[str, list[jt.Var]] = {name: [] for name in self._functions}
        for of_variable in values:
            for name, value in of_variable.items():
                found[name] += value if isinstance(value, tuple) else (value,)
        return found

    def _per_variable(self, name: str, value: Any, entries: int) -> list[list[jt.Var]]:
        """One list of Vars with one number each, for each variable."""
        if isinstance(value, list):
            if len(value) != self._count:
                raise ValueError(
                    f"ll_hyperparameters[{name!r}] must return one Var, or a list with one for each of the "
                    f"{self._count} lower-level variables, got {len(value)}"
                )
            return [self._numbers(name, v, entries) for v in value]
        if isinstance(value, jt.Var) and self._count > 1 and value.numel() == self._count * entries:
            rows = value.reshape(self._count, entries)
            return [[rows[i, j].reshape(1) for j in range(entries)] for i in range(self._count)]
        return [self._numbers(name, value, entries)] * self._count

    def _numbers(self, name: str, value: Any, entries: int) -> list[jt.Var]:
        parts: Sequence[Any] = [value]
        if isinstance(value, tuple):
            parts = value
        elif isinstance(value, jt.Var) and entries > 1 and value.numel() == entries:
            flat = value.reshape(-1)
            parts = [flat[i] for i in range(entries)]
        for part in parts:
            if not isinstance(part, jt.Var):
                kind = type(part).__name__
                hint = ", which has no gradient; give a Var" if isinstance(part, (int, float, np.generic)) else ""
                raise TypeError(f"ll_hyperparameters[{name!r}] must return Vars, got {kind}{hint}")
        if len(parts) != entries or any(part.numel() != 1 for part in parts):
            shapes = [list(part.shape) for part in parts]
            raise ValueError(
                f"ll_hyperparameters[{name!r}] must return {entries} number{'s' * (entries > 1)}, or as many for each "
                f"of the {self._count} lower-level variables, got Vars of shapes {shapes}"
            )
        return [part.reshape(1) for part in parts]
