"""The two levels of a trainer and the operators that solve them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
import functools
from typing import Any

from jboat import functional, levels, registry, running_statistics
from jboat.chain_plan import ChainPlan, StepOptions
from jboat.learned_hyperparameters import LearnedHyperparameters
from jboat.levels import Objective
from jboat.projections import Projection
from jboat.trainers.data.micro_batches import MicroBatches
from jboat.trajectory import Trajectory
import jittor as jt


@dataclass
class Problem:
    """The two levels and the operators that solve them.

    Attributes:
        lower_micro_batches: in how many parts the lower objective, and GDA's by its lower batch, is computed.
        learned: those of the lower optimizer's numbers that are functions of the upper model.
        plan: what the chains want; that of no operators where another method takes their place.
        config: what the operators read, with the sections as they were when the outer step under way began.
        options: the options that these sections give, made once for the step.
    """

    ll_model: jt.Module
    ul_model: jt.Module
    ll_objective: Objective
    ul_objective: Objective
    ll_var: list[jt.Var]
    ul_var: list[jt.Var]
    ll_optimizer: jt.optim.Optimizer
    ul_optimizer: jt.optim.Optimizer
    gm_op: tuple[str, ...]
    na_op: tuple[str, ...]
    lower_iters: int
    sections: dict[str, dict[str, Any]]
    lower_micro_batches: int = 1
    gda_loss: Objective | None = None
    ll_projection: Projection | None = None
    ul_projection: Projection | None = None
    learned: LearnedHyperparameters | None = None
    fo_op: str | None = None
    sl_op: str | None = None
    plan: ChainPlan = field(init=False, repr=False)
    config: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    options: StepOptions = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.lower_micro_batches > 1:
            variables = self.ll_var, self.ul_var
            self.ll_objective = MicroBatches(self.ll_objective, self.lower_micro_batches, *variables)
            if self.gda_loss is not None:
                self.gda_loss = MicroBatches(self.gda_loss, self.lower_micro_batches, *variables)
        self.plan = registry.plan(*((self.gm_op, self.na_op) if self.in_place_of_chains is None else ((), ())))
        self.options = StepOptions(self.plan, self.config)
        levels.upper_variables_are(self.ul_var, self.ul_model)  # before a chain is made, since lower steps know no x
        self.begin_step()

    def begin_step(self) -> None:
        """Take the sections of ``solver_config`` as they are, for an outer step that begins."""
        self.config.clear()
        self.config.update(
            {name: dict(section or {}) for name, section in self.sections.items()},
            gm_op=self.gm_op,
            na_op=self.na_op,
            lower_level_opt=self.ll_optimizer,
            upper_level_opt=self.ul_optimizer,
            gda_loss=self.gda_loss,
            ll_projection=self.ll_projection,
            chain_plan=self.plan,
            chain_options=self.options,
        )
        self.options.renew()

    @property
    def in_place_of_chains(self) -> str | None:
        """The method that replaces both chains, or None."""
        return self.fo_op if self.sl_op is None else self.sl_op

    @property
    def operators(self) -> tuple[str, ...]:
        """The names of the operators at work."""
        single = self.in_place_of_chains
        return (*self.gm_op, *self.na_op) if single is None else (single,)

    def operator_arguments(self, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The arguments that every operator's constructor takes, with another configuration where one is given."""
        return {
            "ll_objective": self.ll_objective,
            "ul_objective": self.ul_objective,
            "ll_model": self.ll_model,
            "ul_model": self.ul_model,
            "solver_config": self.config if config is None else config,
        }

    @functools.cached_property
    def upper_statistics(self) -> list[jt.Var]:
        """The upper model's running statistics."""
        return functional.buffers(self.ul_model)

    @property
    def models(self) -> tuple[jt.Module, jt.Module]:
        """Both models."""
        return self.ul_model, self.ll_model

    def statistics(self) -> list[jt.Var]:
        """The running statistics of both models, and what else of them is not trained now."""
        return [b for model in self.models for b in functional.buffers(model)]

    def advance_upper_statistics(self, trajectory: Trajectory) -> None:
        """Let them advance once: by the upper objective or, where that does not run the upper model, by the lower."""
        noted = trajectory.upper_statistics
        running_statistics.advance(self.upper_statistics, noted.get("upper"), noted.get("lower"))
