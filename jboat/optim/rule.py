"""The update of one parameter by one class of optimizers, and which rule reproduces which class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jittor as jt

Hyperparameters: TypeAlias = Mapping[str, Any]
Slots: TypeAlias = "tuple[jt.Var, ...]"
_R = TypeVar("_R", bound="type[Rule]")


class OptimizerState(NamedTuple):
    """What an optimizer remembers: the number of steps taken and, for each parameter, its slots."""

    step: int
    slots: tuple[Slots, ...]

    def flat(self) -> list[jt.Var]:
        """All slots in one list."""
        return [slot for slots in self.slots for slot in slots]

    def with_slots(self, flat: Iterable[jt.Var], step: int | None = None) -> OptimizerState:
        """The state with other slots, as :meth:`flat` lists them, and, if it is given, another number of steps."""
        remaining = iter(flat)
        slots = tuple(tuple(next(remaining) for _ in slots) for slots in self.slots)
        return OptimizerState(self.step if step is None else step, slots)


class Rule:
    """The update of one parameter; subclass and :func:`register_rule` to support another optimizer.

    Attributes:
        hyperparameters: names read from the parameter group or, failing that, from the optimizer.
        slots: names of the per-parameter lists that the optimizer keeps in each parameter group.
        couples_weight_decay: whether the rule adds ``weight_decay * p`` to the gradient and does nothing else with it.
            Its steps then lead where the gradient of the objective plus ``weight_decay / 2 ||p||^2`` vanishes, which
            implicit operators differentiate. A decay that is not coupled belongs to no objective.
    """

    hyperparameters: tuple[str, ...] = ("lr",)
    slots: tuple[str, ...] = ()
    couples_weight_decay: bool = False

    def used_slots(self, h: Hyperparameters) -> tuple[str, ...]:
        """The slots that matter with these hyperparameters."""
        return self.slots

    def transform_gradients(self, gradients: list[jt.Var], groups: Sequence[Hyperparameters]) -> list[jt.Var]:
        """Change all gradients together before the update, as clipping by the global norm does."""
        return gradients

    def update(self, p: jt.Var, g: jt.Var, slots: Slots, step: int, h: Hyperparameters) -> tuple[jt.Var, Slots]:
        """One step.

        Args:
            p: the parameter.
            g: its gradient, of the same shape.
            slots: the values of ``used_slots``, each of the parameter's shape.
            step: the number of this step, counted from 1.
            h: the hyperparameters of the parameter's group.

        Returns:
            The new parameter and the new slots.
        """
        raise NotImplementedError(f"{type(self).__name__} must define update()")

    def settled(self, p: jt.Var, g: jt.Var, slots: Slots, h: Hyperparameters) -> Slots:
        """The slots before a step as functions of what they become where steps lead back to the same point.

        Where the loop has converged, a velocity is what the present gradient makes of it, and follows that. To hold it
        makes no difference at a minimum, where the gradient vanishes, but at a constraint it does. Without a method of
        its own a rule holds its slots.

        Args:
            p: the parameter.
            g: its gradient.
            slots: their values.
            h: the hyperparameters of the parameter's group.
        """
        return slots


_rules: dict[type, Rule] = {}
_of_jittor: dict[str, Rule] = {}


def register_rule(optimizer_class: type) -> Callable[[_R], _R]:
    """Class decorator: the :class:`Rule` that reproduces ``optimizer_class``."""

    def register(rule_class: _R) -> _R:
        _rules[optimizer_class] = rule_class()
        return rule_class

    return register


def rule_of_jittors(name: str) -> Callable[[_R], _R]:
    """Class decorator: the :class:`Rule` that reproduces ``jt.optim``'s class of this name, without asking for it."""

    def register(rule_class: _R) -> _R:
        _of_jittor[name] = rule_class()
        return rule_class

    return register


def rule_of(optimizer: jt.optim.Optimizer) -> Rule:
    """The rule that reproduces an optimizer.

    Raises:
        TypeError: if its class has none.
    """
    cls = type(optimizer)
    rule = _rules.get(cls)
    if rule is None and cls is getattr(jt.optim, cls.__name__, None):
        rule = _of_jittor.get(cls.__name__)
    if rule is None:
        names = ", ".join([*_of_jittor, *(other.__name__ for other in _rules)])
        raise TypeError(
            f"no differentiable rule for optimizer {cls.__name__}; supported are {names}. "
            "Add one with jboat.optim.register_rule."
        )
    return rule
