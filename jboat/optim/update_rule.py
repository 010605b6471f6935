"""The rule of one optimizer over a list of variables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jboat import functional
from jboat.optim.rule import Hyperparameters, OptimizerState, Rule, rule_of
from jboat.optim.settings import setting
import jittor as jt


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
        self._rule = rule_of(optimizer)
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
                    name: setting(self._optimizer, group, name) for name in self._rule.hyperparameters
                }
        return [of_group[id(group)] for group, _ in self._places]

    def learning_rates(self) -> list[float]:
        """The learning rate of each variable."""
        return [float(h["lr"]) for h in self.hyperparameters()]

    @property
    def couples_weight_decay(self) -> bool:
        """Whether a weight decay is added to the gradient, and belongs to the objective."""
        return self._rule.couples_weight_decay

    @property
    def is_entrywise(self) -> bool:
        """Whether each entry moves by its own gradient and slots alone, as far as is known."""
        own = type(self._rule)
        return own.transform_gradients is Rule.transform_gradients and own.__module__.startswith("jboat.optim.")

    @property
    def holds_state(self) -> bool:
        """Whether an optimizer with a state does not tell what it settles to."""
        return bool(self._rule.slots) and type(self._rule).settled is Rule.settled

    def coupled_weight_decay(self) -> list[float]:
        """The weight decay that each variable's gradient gets added, 0 where there is none."""
        return self._weight_decay() if self._rule.couples_weight_decay else [0.0] * len(self._places)

    def decoupled_weight_decay(self) -> float:
        """The largest weight decay that is no part of a gradient, and of no objective; 0 if there is none."""
        return 0.0 if self._rule.couples_weight_decay else max(self._weight_decay(), default=0.0)

    def _weight_decay(self) -> list[float]:
        if "weight_decay" not in self._rule.hyperparameters:
            return [0.0] * len(self._places)
        return [float(setting(self._optimizer, group, "weight_decay")) for group, _ in self._places]

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
        learned: Sequence[Hyperparameters] | None = None,
        settled: bool = False,
    ) -> tuple[list[jt.Var], OptimizerState]:
        """One optimizer step, differentiable in all arguments.

        Args:
            parameters: one Var per variable.
            gradients: one Var per variable, of its shape; what has another dtype is cast to the variable's.
            state: the state before the step.
            hyperparameters: those of each variable, as :meth:`hyperparameters` gave them; by default those in force.
            decay_included: whether ``gradients`` hold the coupled weight decay already, as those of phi do; the rule
                then adds none.
            learned: for each variable what takes the place of some of its hyperparameters: Vars of one number, in which
                the step is differentiable too, and for betas tuples of these.
            settled: whether the state before follows parameters and gradients, as far as :meth:`Rule.settled` tells.

        Returns:
            The new parameters, each of its variable's dtype, and the state after the step.
        """
        groups = self.hyperparameters() if hyperparameters is None else hyperparameters
        if decay_included and self._rule.couples_weight_decay:
            without = {id(h): {**h, "weight_decay": 0.0} for h in groups}  # still one dict a group
            groups = [without[id(h)] for h in groups]
        gradients = functional.of_dtypes(gradients, parameters)
        step = state.step + 1
        gradients = self._rule.transform_gradients(list(gradients), groups)
        if learned is not None:
            groups = [{**h, **own} for h, own in zip(groups, learned, strict=True)]
        before = state.slots
        if settled:
            before = tuple(
                self._rule.settled(p, g, slots, h)
                for p, g, slots, h in zip(parameters, gradients, before, groups, strict=True)
            )
        moved = [
            self._rule.update(p, g, slots, step, h)
            for p, g, slots, h in zip(parameters, gradients, before, groups, strict=True)
        ]
        return [p for p, _ in moved], OptimizerState(step, tuple(slots for _, slots in moved))
