"""Differentiable update rules of Jittor's optimizers.

A rule is a pure function from parameters, gradients and optimizer state to new parameters and state. It produces the
iterates of the optimizer it is made from, and can be differentiated in all three.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
import math
from typing import Any, NamedTuple, TypeVar

from jboat import functional
from jboat.plain_numbers import plain
import jittor as jt

Hyperparameters = Mapping[str, Any]
Slots = tuple[jt.Var, ...]
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


_rules: dict[type, Rule] = {}


def register_rule(optimizer_class: type) -> Callable[[_R], _R]:
    """Class decorator: the :class:`Rule` that reproduces ``optimizer_class``."""

    def register(rule_class: _R) -> _R:
        _rules[optimizer_class] = rule_class()
        return rule_class

    return register


def _sqrt(v: jt.Var) -> jt.Var:
    """Square root with derivative 0 at 0, where a parameter never had a gradient; plain sqrt gives NaN there."""
    positive = v > 0.0
    return jt.where(positive, jt.sqrt(jt.where(positive, v, jt.ones_like(v))), jt.zeros_like(v))


@register_rule(jt.optim.SGD)
class SGDRule(Rule):
    """Gradient descent with momentum, dampening, Nesterov's variant and weight decay."""

    hyperparameters = ("lr", "momentum", "weight_decay", "dampening", "nesterov")
    slots = ("values",)
    couples_weight_decay = True

    def used_slots(self, h: Hyperparameters) -> tuple[str, ...]:
        """No slot without momentum: the velocity is then the gradient itself."""
        return self.slots if h["momentum"] else ()

    def update(self, p: jt.Var, g: jt.Var, slots: Slots, step: int, h: Hyperparameters) -> tuple[jt.Var, Slots]:
        """See :meth:`Rule.update`."""
        if h["weight_decay"]:
            (g,) = functional.axpy(h["weight_decay"], [p], [g])
        velocity = g if h["dampening"] == 0 else g * (1 - h["dampening"])
        if slots:
            (velocity,) = functional.axpy(h["momentum"], slots[:1], [velocity])
        direction = functional.axpy(h["momentum"], [velocity], [g]) if h["nesterov"] else [velocity]
        (moved,) = functional.axpy(h["lr"], direction, [p], factor=-1.0)
        return moved, (velocity,) if slots else ()


@register_rule(jt.optim.RMSprop)
class RMSpropRule(Rule):
    """Gradients divided by a running root mean square (Tieleman and Hinton 2012)."""

    hyperparameters = ("lr", "eps", "alpha")
    slots = ("values",)

    def update(self, p: jt.Var, g: jt.Var, slots: Slots, step: int, h: Hyperparameters) -> tuple[jt.Var, Slots]:
        """See :meth:`Rule.update`."""
        square = h["alpha"] * slots[0] + (1 - h["alpha"]) * g * g
        return p - h["lr"] * g / (_sqrt(square) + h["eps"]), (square,)


@register_rule(jt.optim.Adam)
class AdamRule(Rule):
    """Adam with coupled weight decay (Kingma and Ba 2015)."""

    hyperparameters = ("lr", "eps", "betas", "weight_decay")
    slots = ("m", "values")
    couples_weight_decay = True

    def update(self, p: jt.Var, g: jt.Var, slots: Slots, step: int, h: Hyperparameters) -> tuple[jt.Var, Slots]:
        """See :meth:`Rule.update`."""
        b0, b1 = h["betas"]
        if h["weight_decay"]:
            g = p * h["weight_decay"] + g
        mean = b0 * slots[0] + (1 - b0) * g
        square = b1 * slots[1] + (1 - b1) * g * g
        step_size = h["lr"] * math.sqrt(1 - b1**step) / (1 - b0**step)
        return p - mean * step_size / (_sqrt(square) + h["eps"]), (mean, square)


@register_rule(jt.optim.AdamW)
class AdamWRule(Rule):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    hyperparameters = AdamRule.hyperparameters
    slots = AdamRule.slots

    def update(self, p: jt.Var, g: jt.Var, slots: Slots, step: int, h: Hyperparameters) -> tuple[jt.Var, Slots]:
        """See :meth:`Rule.update`."""
        b0, b1 = h["betas"]
        mean = b0 * slots[0] + (1 - b0) * g
        square = b1 * slots[1] + (1 - b1) * g * g
        denominator = _sqrt(square) / math.sqrt(1 - b1**step) + h["eps"]
        shrunk = p * (1 - h["lr"] * h["weight_decay"])
        return shrunk - (h["lr"] / (1 - b0**step)) * mean / denominator, (mean, square)


@register_rule(jt.optim.Adan)
class AdanRule(Rule):
    """Adaptive Nesterov momentum (Xie et al. 2022, arXiv 2208.06677)."""

    hyperparameters = ("lr", "betas", "eps", "weight_decay", "max_grad_norm")
    slots = ("m", "v", "d", "pre_grad")

    def transform_gradients(self, gradients: list[jt.Var], groups: Sequence[Hyperparameters]) -> list[jt.Var]:
        """Clip by the global norm where a group asks for it; later groups see what earlier ones clipped."""
        result = list(gradients)
        for h in {id(h): h for h in groups}.values():
            if h["max_grad_norm"] > 0:
                norm = _sqrt(functional.dot(gradients, gradients))
                factor = jt.minimum(h["max_grad_norm"] / (norm + 1e-6), jt.ones_like(norm))
                gradients = [g * factor for g in gradients]
            result = [g if group is h else r for g, r, group in zip(gradients, result, groups, strict=True)]
        return result

    def update(self, p: jt.Var, g: jt.Var, slots: Slots, step: int, h: Hyperparameters) -> tuple[jt.Var, Slots]:
        """See :meth:`Rule.update`."""
        b1, b2, b3 = h["betas"]
        mean, square, drift, previous = slots
        difference = g - previous
        mean = b1 * mean + (1 - b1) * g
        drift = b2 * drift + (1 - b2) * difference
        corrected = difference * b2 + g
        square = b3 * square + (1 - b3) * corrected * corrected
        root = math.sqrt(1 - b3**step)
        direction = (h["lr"] * root / (1 - b1**step)) * mean + (h["lr"] * b2 * root / (1 - b2**step)) * drift
        moved = p - direction / (_sqrt(square) + h["eps"] * root)
        return moved / (1 + h["lr"] * h["weight_decay"]), (mean, square, drift, g)


class UpdateRule:
    """The rule of one optimizer over a list of variables.

    Args:
        optimizer: a Jittor optimizer whose class has a registered rule. Hyperparameters are read from it at every
            call, so that a schedule takes effect; it is changed by :meth:`store` alone.
        variables: Vars that the optimizer holds, in the order in which parameters will be given.

    Raises:
        TypeError: if the optimizer's class has no rule.
        ValueError: if the optimizer does not hold one of the variables.
    """

    def __init__(self, optimizer: jt.optim.Optimizer, variables: Sequence[jt.Var]) -> None:
        rule = _rules.get(type(optimizer))
        if rule is None:
            names = ", ".join(cls.__name__ for cls in _rules)
            raise TypeError(
                f"no differentiable rule for optimizer {type(optimizer).__name__}; supported are {names}. "
                "Add one with jboat.optim.register_rule."
            )
        self._rule = rule
        self._optimizer = optimizer
        places = {id(p): (group, i) for group in optimizer.param_groups for i, p in enumerate(group["params"])}
        missing = [i for i, v in enumerate(variables) if id(v) not in places]
        if missing:
            raise ValueError(f"the optimizer does not hold variables number {missing} of {len(variables)}")
        self._places = [places[id(v)] for v in variables]

    def hyperparameters(self) -> list[dict[str, Any]]:
        """The hyperparameters of each variable in force now; one shared dict a parameter group."""
        of_group: dict[int, dict[str, Any]] = {}
        for group, _ in self._places:
            if id(group) not in of_group:
                of_group[id(group)] = {
                    name: plain(group.get(name, getattr(self._optimizer, name))) for name in self._rule.hyperparameters
                }
        return [of_group[id(group)] for group, _ in self._places]

    def learning_rates(self) -> list[float]:
        """The learning rate of each variable."""
        return [float(h["lr"]) for h in self.hyperparameters()]

    def coupled_weight_decay(self) -> list[float]:
        """The weight decay that each variable's gradient gets added, 0 where there is none."""
        return self._weight_decay() if self._rule.couples_weight_decay else [0.0] * len(self._places)

    def decoupled_weight_decay(self) -> float:
        """The largest weight decay that is no part of a gradient, and of no objective; 0 if there is none."""
        return 0.0 if self._rule.couples_weight_decay else max(self._weight_decay(), default=0.0)

    def _weight_decay(self) -> list[float]:
        return [float(h.get("weight_decay", 0.0)) for h in self.hyperparameters()]

    @property
    def optimizer_name(self) -> str:
        """The class of the optimizer."""
        return type(self._optimizer).__name__

    def fresh_state(self, parameters: Sequence[jt.Var]) -> OptimizerState:
        """The state of an optimizer that has taken no step."""
        used = [self._rule.used_slots(h) for h in self.hyperparameters()]
        slots = tuple(tuple(jt.zeros_like(p) for _ in u) for p, u in zip(parameters, used, strict=True))
        return OptimizerState(0, slots)

    def load(self) -> OptimizerState:
        """The state that the optimizer has now."""
        slots = []
        for (group, i), h in zip(self._places, self.hyperparameters(), strict=True):
            slots.append(tuple(group[name][i].detach() for name in self._rule.used_slots(h)))
        return OptimizerState(int(self._optimizer.n_step), tuple(slots))

    def store(self, state: OptimizerState) -> None:
        """Write a state into the optimizer."""
        for (group, i), h, slots in zip(self._places, self.hyperparameters(), state.slots, strict=True):
            for name, slot in zip(self._rule.used_slots(h), slots, strict=True):
                group[name][i].assign(slot.detach().stop_grad())
        self._optimizer.n_step = state.step

    def update(
        self,
        parameters: Sequence[jt.Var],
        gradients: Sequence[jt.Var],
        state: OptimizerState,
        hyperparameters: Sequence[Hyperparameters] | None = None,
        *,
        decay_included: bool = False,
    ) -> tuple[list[jt.Var], OptimizerState]:
        """One optimizer step, differentiable in all arguments.

        Args:
            parameters: one Var per variable.
            gradients: one Var per variable, of its shape; what has another dtype is cast to the variable's.
            state: the state before the step.
            hyperparameters: those of each variable, as :meth:`hyperparameters` gave them; by default those in force.
            decay_included: whether ``gradients`` hold the coupled weight decay already, as those of phi do; the rule
                then adds none.

        Returns:
            The new parameters, each of its variable's dtype, and the state after the step.
        """
        groups = self.hyperparameters() if hyperparameters is None else hyperparameters
        if decay_included and self._rule.couples_weight_decay:
            without = {id(h): {**h, "weight_decay": 0.0} for h in groups}  # still one dict a group
            groups = [without[id(h)] for h in groups]
        gradients = functional.of_dtypes(gradients, parameters)
        step = state.step + 1
        moved = [
            self._rule.update(p, g, slots, step, h)
            for p, g, slots, h in zip(
                parameters, self._rule.transform_gradients(list(gradients), groups), state.slots, groups, strict=True
            )
        ]
        return [p for p, _ in moved], OptimizerState(step, tuple(slots for _, slots in moved))
