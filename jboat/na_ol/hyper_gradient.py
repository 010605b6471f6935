"""The base class of the hypergradient operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from jboat import autodiff, functional, levels, registry, running_statistics
from jboat.capabilities import UpperCapabilities
from jboat.chain_plan import ChainPlan
from jboat.levels import Batch, Objective
from jboat.lower_objective import LowerObjective, with_weight_decay
from jboat.optim.settings import learning_rates
from jboat.out_of_place import require
from jboat.trajectory import Trajectory
from jboat.trial_calls import on_trial
from jboat.warn_once import WarnOnce
import jittor as jt


class HyperGradient:
    """An operator that computes, or prepares, the hypergradient.

    Args:
        ll_objective: f, called ``f(ll_feed_dict, ul_model, ll_model)``; returns a scalar Var.
        ul_objective: F, called ``F(ul_feed_dict, ul_model, ll_model)``; returns a scalar Var.
        ul_model: the upper-level model.
        ll_model: the lower-level model.
        ll_var: the Vars y that the lower level optimizes.
        ul_var: the Vars x that the upper level optimizes.
        solver_config: ``gm_op``, ``na_op``, ``lower_level_opt``, ``gda_loss`` and one section per operator.

    Attributes:
        capabilities: what it wants and does; None for those of the operator whose place it is registered for.
        shares_options_with: the sections of ``solver_config`` that hold its options where it has none of its own.
        zero_because: why the hypergradient after it may be exactly zero, in a clause; empty where there is no such
            reason.
        plan: what the chains that it stands in want.
    """

    capabilities: ClassVar[UpperCapabilities | None] = None
    shares_options_with: ClassVar[tuple[str, ...]] = ()
    zero_because: ClassVar[str] = ""

    @staticmethod
    def check_options(options: Any, plan: ChainPlan, lower_iters: int) -> None:
        """Refuse options that do not fit the chains or the number of lower steps, in every operator its own.

        Args:
            options: the operator's options.
            plan: what the chains want.
            lower_iters: K.

        Raises:
            ValueError: if they do not fit.
        """

    def __init__(
        self,
        ll_objective: Objective,
        ul_objective: Objective,
        ul_model: jt.Module,
        ll_model: jt.Module,
        ll_var: Sequence[jt.Var],
        ul_var: Sequence[jt.Var],
        solver_config: Mapping[str, Any],
    ) -> None:
        self.ll_objective = ll_objective
        self.ul_objective = ul_objective
        self.ul_model = ul_model
        self.ll_model = ll_model
        self.ll_var = list(ll_var)
        self.ul_var = list(ul_var)
        self.solver_config = solver_config
        levels.upper_variables_are(ul_var, ul_model)
        self.lower_objective = LowerObjective(ll_objective, ul_objective, ul_model, solver_config)
        self._upper_statistics = functional.buffers(ul_model)
        self.plan, self._options = registry.plan_and_options(solver_config)
        self._operator = registry.registered(type(self))
        self.dynamic_initialization = self.plan.start_learner is not None
        self.warn = WarnOnce()

    def compute_gradients(
        self, ll_feed_dict: Batch | Sequence[Batch], ul_feed_dict: Batch, auxiliary_model: Trajectory, **kwargs: Any
    ) -> dict[str, Any]:
        """Run the operator."""
        raise NotImplementedError(f"{type(self).__name__} must define compute_gradients()")

    @property
    def options(self) -> Any:
        """The operator's own options; None where it has none."""
        return None if self._operator is None else self._options.of(self._operator)

    @property
    def alpha(self) -> float:
        """GDA's weight of the upper objective at inner step 0."""
        return self.lower_objective.alpha

    @property
    def alpha_decay(self) -> float:
        """GDA's factor of the weight from one inner step to the next."""
        return self.lower_objective.alpha_decay

    @property
    def gda_loss(self) -> Objective | None:
        """The user's aggregated objective, if there is one."""
        return self.lower_objective.gda_loss

    @property
    def ll_lr(self) -> float:
        """The lower-level learning rate (of the first parameter group, where they differ)."""
        return learning_rates(self.solver_config["lower_level_opt"])[0]

    def _require_modifier(self, next_operation: str | None, finished: bool) -> None:
        name = type(self).__name__
        require(not finished, f"{name} must run before the hypergradient is finished: put it first in na_op")
        require(
            next_operation is not None, f"{name} prepares a hypergradient but computes none: add RAD or IAD to na_op"
        )

    def _require_terminal(self, next_operation: str | None, finished: bool) -> None:
        name = type(self).__name__
        require(not finished, f"{name} got a finished hypergradient: na_op may hold one operator that finishes")
        require(
            next_operation is None, f"{name} finishes the hypergradient: remove {next_operation} after it from na_op"
        )

    def _upper(self, trajectory: Trajectory, ul_feed_dict: Batch) -> tuple[jt.Var, list[jt.Var], list[jt.Var]]:
        """F, grad_x F and grad_y F at the last iterate, detached and computed."""
        parameters = trajectory.parameters()

        def objective(model: jt.Module) -> jt.Var:
            return levels.call(self.ul_objective, ul_feed_dict, self.ul_model, model, parameters=trajectory.variables)

        with functional.preserved(self._upper_statistics):
            loss = trajectory.evaluate(objective)
            trajectory.upper_statistics["upper"] = running_statistics.noted(self._upper_statistics)
        gradients = autodiff.grad(loss, [*self.ul_var, *parameters])
        count = len(self.ul_var)
        by_x, by_y = functional.cut_lists(gradients[:count], gradients[count:], together_with=[loss])
        return loss, by_x, by_y

    def _lower(
        self,
        trajectory: Trajectory,
        step: int,
        ll_feed_dict: Batch | Sequence[Batch],
        ul_feed_dict: Batch,
        parameters: Sequence[jt.Var],
        *,
        decay: bool = True,
    ) -> jt.Var:
        """Phi of inner step ``step`` at ``parameters``, with its graph, by default with the coupled weight decay."""
        anchor = trajectory.parameters(0)
        minimised = trajectory.lower_objective or self.lower_objective

        def objective(model: jt.Module) -> jt.Var:
            return minimised(model, trajectory.variables, step, ll_feed_dict, ul_feed_dict, anchor)

        with functional.preserved(self._upper_statistics), on_trial():
            phi = trajectory.evaluate(objective, parameters)
        if not decay:
            return phi
        return with_weight_decay(phi, parameters, trajectory.update_rule, operator=type(self).__name__, warn=self.warn)

    def _result(
        self,
        trajectory: Trajectory,
        loss: jt.Var,
        hyper_gradient: Sequence[jt.Var],
        upper_by_y: Sequence[jt.Var],
        ll_init_gradient: Sequence[jt.Var] | None = None,
        diagnostics: Mapping[str, float] | None = None,
    ) -> dict[str, Any]:
        """The dict of a terminal operator; with DI, adds dF(y_K)/dy_0 unless it is given."""
        result: dict[str, Any] = {
            "upper_loss": float(loss.item()),
            "hyper_gradient_finished": True,
            "hyper_gradient": functional.cut(hyper_gradient),
        }
        if self.dynamic_initialization:
            if ll_init_gradient is None:
                _, ll_init_gradient = trajectory.pullback(upper_by_y, [], start=0)
            result["ll_init_gradient"] = list(ll_init_gradient)
        if diagnostics:
            result["diagnostics"] = dict(diagnostics)
        return result


class HyperGradientOperator(HyperGradient):
    """A hypergradient operator with the argument order of the public constructors: ``ll_model`` before ``ul_model``."""

    def __init__(
        self,
        ll_objective: Objective,
        ul_objective: Objective,
        ll_model: jt.Module,
        ul_model: jt.Module,
        ll_var: Sequence[jt.Var],
        ul_var: Sequence[jt.Var],
        solver_config: Mapping[str, Any],
    ) -> None:
        super().__init__(ll_objective, ul_objective, ul_model, ll_model, ll_var, ul_var, solver_config)
