"""phi_k, what lower step k minimises: the lower objective, aggregated with the upper one, with a proximal term."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from jboat import functional, params_argument, registry
from jboat.optim import UpdateRule
from jboat.registered_operator import Operator
from jboat.warn_once import WarnOnce
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
        TypeError: if it returns something other than a Var of floats.
        ValueError: if it returns more than one number.
    """
    loss = result_of(objective, *args, parameters=parameters)
    name = getattr(objective, "__name__", type(objective).__name__)
    if not isinstance(loss, jt.Var):
        raise TypeError(f"{name} must return a scalar jt.Var, got {type(loss).__name__}")
    if loss.numel() != 1:
        raise ValueError(f"{name} must return a scalar, got shape {list(loss.shape)}; take its mean() or sum()")
    if not loss.dtype.is_float():
        raise TypeError(f"{name} must return a float, which has derivatives, got {loss.dtype}")
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


def with_weight_decay(
    loss: jt.Var,
    parameters: Sequence[jt.Var],
    rule: UpdateRule,
    *,
    operator: str = "",
    warn: WarnOnce | None = None,
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

    Returns:
        ``loss`` itself where there is no coupled decay.
    """
    for y, decay in zip(parameters, rule.coupled_weight_decay(), strict=True):
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
        feed = batch_of_step(ll_feed_dict, step)
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
            return call(self._ll_objective, ll_feed, self._ul_model, model, parameters=parameters)
        if self.gda_loss is not None:
            feed = {**ll_feed, "alpha": alpha}
            return call(self.gda_loss, feed, ul_feed, self._ul_model, model, parameters=parameters)
        with functional.preserved(self._statistics(model)):  # they advance by the lower objective, once a step
            upper = call(self._ul_objective, ul_feed, self._ul_model, model, parameters=parameters)
        lower = call(self._ll_objective, ll_feed, self._ul_model, model, parameters=parameters)
        return alpha * upper + (1.0 - alpha) * lower

    def _statistics(self, model: jt.Module) -> list[jt.Var]:
        """The running statistics of both models; those of the lower one are asked for once."""
        if self._lower_statistics[0] is not model:
            self._lower_statistics = model, functional.buffers(model)
        return [*self._upper_statistics, *self._lower_statistics[1]]
