"""phi_k, what lower step k minimises: the lower objective, aggregated with the upper one, with a proximal term."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jboat import functional, levels, registry
from jboat.levels import Batch, Objective
from jboat.optim import UpdateRule
from jboat.registered_operator import Operator
from jboat.trial_calls import on_trial
from jboat.warn_once import WarnOnce
import jittor as jt


def with_weight_decay(
    loss: jt.Var,
    parameters: Sequence[jt.Var],
    rule: UpdateRule,
    *,
    operator: str = "",
    warn: WarnOnce | None = None,
    decays: Sequence[float] | None = None,
) -> jt.Var:
    """What the lower optimizer minimises by following ``loss``: ``loss + sum_i (wd_i / 2) ||y_i||^2``.

    wd_i is the coupled weight decay of the variable's parameter group, which the optimizer adds to the gradient by
    itself. Whoever differentiates the point that lower steps lead to, rather than the steps, has to use this function.

    Args:
        loss: a data objective at ``parameters``, a scalar Var.
        parameters: y, one Var per lower-level variable.
        rule: the rule of the lower optimizer.
        operator: who asks, for the warning.
        warn: told of a decoupled weight decay, which is the gradient of no such term; None where it does not matter.
        decays: wd of each variable where it is not the optimizer's own.

    Returns:
        ``loss`` itself where there is no coupled decay.
    """
    for y, decay in zip(parameters, rule.coupled_weight_decay() if decays is None else decays, strict=True):
        if decay:
            loss = loss + 0.5 * decay * functional.dot([y], [y])
    decoupled = 0.0 if warn is None else rule.decoupled_weight_decay()
    if warn is not None and decoupled:
        warn(
            "%s differentiates the solution of the lower objective, but the weight decay %g of %s is decoupled, which "
            "moves its fixed point away from every such solution: the hypergradient is that without weight decay. Use "
            "an optimizer with coupled decay (SGD, Adam), write the decay into the lower objective, or choose RAD",
            operator,
            decoupled,
            rule.optimizer_name,
        )
    return loss


class LowerObjective:
    """phi_k(y, x) for the inner steps k = 0, 1, ...

    Without GDA it is the lower objective f. With GDA (Liu et al. 2020, "A generic first-order algorithmic framework
    for bi-level programming beyond lower-level singleton") it is ``alpha_k F + (1 - alpha_k) f`` with
    ``alpha_k = alpha_init * alpha_decay ** k``, or the user's ``gda_loss``, which reads ``ll_feed_dict["alpha"]``.
    In implicit MAML (Rajeswaran et al. 2019, "Meta-learning with implicit gradients") the proximal term
    ``lam / 2 ||y - y_0||^2`` is added.

    Args:
        ll_objective: f, called ``f(ll_feed_dict, ul_model, ll_model)``.
        ul_objective: F, called ``F(ul_feed_dict, ul_model, ll_model)``.
        ul_model: the upper-level model.
        solver_config: read for ``gm_op``, ``na_op``, ``gda_loss`` and the sections of operators like GDA and IAD.
        aggregated: whether GDA applies; by default whether ``gm_op`` names an operator like it.
        aggregator: the operator like GDA whose weights apply; by default that of ``gm_op``, else GDA.
    """

    def __init__(
        self,
        ll_objective: Objective,
        ul_objective: Objective,
        ul_model: jt.Module,
        solver_config: Mapping[str, Any],
        *,
        aggregated: bool | None = None,
        aggregator: Operator | None = None,
    ) -> None:
        self._ll_objective = ll_objective
        self._ul_objective = ul_objective
        self._ul_model = ul_model
        plan, self._options = registry.plan_and_options(solver_config)
        self._aggregator = aggregator or plan.aggregator or registry.default_aggregator()
        self.gda_loss: Objective | None = solver_config.get("gda_loss")
        if aggregated is None:
            by_loss = self.gda_loss is not None and solver_config.get("gm_op") is None
            aggregated = by_loss or plan.aggregator is not None
        self.aggregated = aggregated
        self._upper_statistics = functional.buffers(ul_model) if aggregated else []
        self._lower_statistics: tuple[jt.Module | None, list[jt.Var]] = None, []

    @property
    def alpha(self) -> float:
        """The weight of the upper objective at inner step 0."""
        return self.weight(0)

    @property
    def alpha_decay(self) -> float:
        """The factor by which the weight shrinks from one inner step to the next."""
        decay = getattr(self._options.of(self._aggregator), "alpha_decay", None)
        return self.weight(1) / self.weight(0) if decay is None else float(decay)

    def weight(self, step: int) -> float:
        """The weight of the upper objective at inner step ``step``."""
        weight = self._aggregator.lower.weight
        return 0.0 if weight is None else float(weight(self._options.of(self._aggregator), step))

    def __call__(
        self,
        model: jt.Module,
        parameters: Sequence[jt.Var],
        step: int,
        ll_feed_dict: Batch | Sequence[Batch],
        ul_feed_dict: Batch,
        anchor: Sequence[jt.Var],
    ) -> jt.Var:
        """Phi of inner step ``step``, a scalar Var.

        Args:
            model: the lower-level model.
            parameters: y: those of its Vars that the lower level optimizes, which hold the iterate in question.
            step: the inner step, counted from 0.
            ll_feed_dict: the lower batch, or a sequence with one per step.
            ul_feed_dict: the upper batch; read by GDA only.
            anchor: y_0, read by the proximal term only.
        """
        feed = levels.batch_of_step(ll_feed_dict, step)
        weight = self.weight(step) if self.aggregated else 0.0
        loss = self.weighted(model, parameters, weight, feed, ul_feed_dict)
        proximal = self._options.proximal
        if proximal:
            for y, y_0 in zip(parameters, anchor, strict=True):
                loss = loss + 0.5 * proximal * ((y - y_0) * (y - y_0)).sum()
        return loss

    def weighted(
        self, model: jt.Module, parameters: Sequence[jt.Var], alpha: float, ll_feed: Batch, ul_feed: Batch
    ) -> jt.Var:
        """The aggregated objective with weight ``alpha`` on F, whatever the inner step; without GDA f itself."""
        if not self.aggregated:
            return levels.call(self._ll_objective, ll_feed, self._ul_model, model, parameters=parameters)
        if self.gda_loss is not None:
            feed = levels.with_entries(ll_feed, alpha=alpha)
            return levels.call(self.gda_loss, feed, ul_feed, self._ul_model, model, parameters=parameters)
        with levels.reduced_together(ll_feed, ul_feed, self._ul_model, parameters=parameters):
            # both running statistics and what is logged are those of the lower objective
            with functional.preserved(self._statistics(model)), on_trial():
                upper = levels.call(self._ul_objective, ul_feed, self._ul_model, model, parameters=parameters)
            lower = levels.call(self._ll_objective, ll_feed, self._ul_model, model, parameters=parameters)
        return alpha * upper + (1.0 - alpha) * lower

    def _statistics(self, model: jt.Module) -> list[jt.Var]:
        """The running statistics of both models; those of the lower one are asked for once."""
        if self._lower_statistics[0] is not model:
            self._lower_statistics = model, functional.buffers(model)
        return [*self._upper_statistics, *self._lower_statistics[1]]
