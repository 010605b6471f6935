"""DM: the dual multiplier method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math
from typing import Any

from jboat import autodiff, functional, levels, running_statistics
from jboat.capabilities import LowerCapabilities
from jboat.chain_plan import ChainPlan
from jboat.gm_ol.dynamical_system import LowerLevelOperator
from jboat.levels import Batch
from jboat.lower_objective import LowerObjective, with_weight_decay
from jboat.optim import OptimizerState
from jboat.optim.settings import learning_rates
from jboat.out_of_place import require
from jboat.registry import register_operator
from jboat.trajectory import Trajectory
import jittor as jt

_TINY = 1e-12


@dataclass(frozen=True)
class DMOptions:
    """Options of DM.

    Attributes:
        strategy: ``"s1"``, ``"s2"`` or ``"s3"``: how step sizes follow from mu; without GDA only ``"s1"``.
        auxiliary_v_lr: a fixed step size of the multiplier instead of eta; 0 for eta. Unused with CG.
        tau: decay of the step sizes, at least 0.
        p: decay of mu, positive: ``mu = mu0 (k + 1)^(-1/p)`` in outer step k.
        mu0: weight of the upper objective at first, strictly between 0 and 1; used with GDA.
        eta0: scale of the multiplier's step size, positive; used without GDA.
    """

    strategy: str = "s1"
    auxiliary_v_lr: float = 0.0
    tau: float = 0.025
    p: float = 10.0
    mu0: float = 0.5
    eta0: float = 1.0

    def __post_init__(self) -> None:
        if self.strategy not in ("s1", "s2", "s3"):
            raise ValueError(f"solver_config['DM']['strategy'] must be 's1', 's2' or 's3', got {self.strategy!r}")
        for name in ("auxiliary_v_lr", "tau"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"solver_config['DM'][{name!r}] must be at least 0, got {getattr(self, name)}")
        for name in ("p", "eta0"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"solver_config['DM'][{name!r}] must be positive, got {getattr(self, name)}")
        if not 0.0 < self.mu0 < 1.0:
            raise ValueError(f"solver_config['DM']['mu0'] must lie strictly in (0, 1), got {self.mu0}")


@register_operator(
    "gm", options=DMOptions, cost="two gradients and one Hessian-vector product (two with CG); no lower loop"
)
class DM(LowerLevelOperator):
    """One simultaneous step of y, a multiplier v and x in an outer step k; there is no lower loop.

    With ``psi = mu F + (1 - mu) f`` (f alone without GDA) y moves along ``grad_y psi`` by the lower optimizer, v along
    ``(d2 psi / dy2) v - grad_y F``, and x along ``grad_x F - (d2 psi / dx dy) v`` by the upper optimizer, all from the
    values before the step. With ``na_op`` RAD v takes a gradient step of size eta, with CG an exact line search along
    the same direction. With lr_y and lr_x the learning rates, the step sizes are

    * without GDA ``eta = eta0 (k+1)^(-tau/2) lr_y`` and ``lr_x lr_y (k+1)^(-tau)`` for x;
    * with GDA ``eta = (k+1)^(-tau/2) mu^a lr_y`` and ``(k+1)^(-3 tau/2) mu^b lr_y`` for x, (a, b) being (2, 7) in s1,
      (1, 5) in s2 and (0, 3) in s3.

    psi includes the lower optimizer's coupled weight decay. Where parameter groups have different learning rates, eta
    follows each variable's own, and the rate of x the first group's. A direction without positive curvature has no
    exact line search; with CG v then takes a gradient step, which the metric ``dm_breakdown`` and one warning tell.

    NGD may be named beside DM and changes nothing: the step of y is its.

    Source: Liu, Liu, Yao, Zeng and Zhang, "Averaged method of multipliers for bi-level optimization without lower-level
    strong convexity", ICML 2023 (sl-BAMM).
    """

    capabilities = LowerCapabilities(moves_multiplier=True)

    @staticmethod
    def check_options(options: DMOptions, plan: ChainPlan, lower_iters: int) -> None:
        """Refuse a strategy that takes its step sizes from mu where there is none.

        Raises:
            ValueError: if there is none.
        """
        if plan.aggregator is None and options.strategy != "s1":
            raise ValueError(
                f"solver_config['DM']['strategy'] must be 's1' without GDA in gm_op, got {options.strategy!r}"
            )

    def optimize(
        self,
        ll_feed_dict: Batch,
        ul_feed_dict: Batch,
        auxiliary_model: Trajectory,
        current_iter: int = 0,
        multiplier: Sequence[jt.Var] | None = None,
        ul_var: Sequence[jt.Var] = (),
        ll_state: OptimizerState | None = None,
        lower_objective: LowerObjective | None = None,
        next_operation: str | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Compute the step; nothing is moved.

        Args:
            ll_feed_dict: the lower batch.
            ul_feed_dict: the upper batch.
            auxiliary_model: a trajectory at y, without steps.
            current_iter: k, the number of the outer step, from 0.
            multiplier: v, one Var per lower-level variable; zeros by default.
            ul_var: the upper-level variables x.
            ll_state: the lower optimizer's state; a fresh one by default.
            lower_objective: GDA's aggregated objective, where GDA comes before.
            next_operation: must be None.
            kwargs: ignored.

        Returns:
            ``hyper_gradient`` (the direction of x), ``ul_learning_rate``, ``ll_parameters`` and ``ll_state`` (y and the
            lower optimizer's state after the step), ``multiplier`` (v after it), ``upper_loss``, ``lower_loss`` and
            ``diagnostics``; ``value`` gives what the direction of x is the derivative of, y and v held.

        Raises:
            AssertionError: if another operator should follow.
        """
        require(next_operation is None, f"DM ends the lower-level chain, but {next_operation} follows it")
        options: DMOptions = self.options
        psi = lower_objective or self.lower_objective(aggregated=False)
        model, variables, y = auxiliary_model.module, auxiliary_model.variables, auxiliary_model.parameters()
        v = functional.cut([jt.zeros_like(p) for p in y] if multiplier is None else multiplier)
        mu = options.mu0 * (current_iter + 1) ** (-1.0 / options.p) if psi.aggregated else 0.0
        rates = auxiliary_model.learning_rates
        rule = auxiliary_model.update_rule
        etas = [self._step_sizes(options, current_iter, mu, rate)[0] for rate in rates]
        ul_rate = self._step_sizes(options, current_iter, mu, rates[0])[1]

        noted = auxiliary_model.upper_statistics

        def upper_value() -> jt.Var:
            return auxiliary_model.evaluate(
                lambda model: levels.call(self.ul_objective, ul_feed_dict, self.ul_model, model, parameters=variables)
            )

        def lower_value() -> jt.Var:
            return functional.called_with(y, variables, psi.weighted, model, variables, mu, ll_feed_dict, ul_feed_dict)

        with functional.preserved(self.upper_statistics):
            upper = upper_value()
            noted["upper"] = running_statistics.noted(self.upper_statistics)
        upper_gradients = functional.detached(autodiff.grad(upper, [*ul_var, *y]))
        upper_by_x, upper_by_y = upper_gradients[: len(ul_var)], upper_gradients[len(ul_var) :]
        with functional.preserved(self.upper_statistics):
            value = lower_value()
            noted["lower"] = running_statistics.noted(self.upper_statistics)
        phi = with_weight_decay(value, y, rule, operator=type(self).__name__, warn=self.warn)
        gradient = autodiff.grad(phi, y)
        jt.sync([upper, value, *upper_gradients, *gradient])

        products = functional.detached(autodiff.vjp(gradient, [*ul_var, *y], v))
        through_x, hessian_v = products[: len(ul_var)], products[len(ul_var) :]
        direction, residual = functional.cut_lists(
            functional.axpy(-1.0, through_x, upper_by_x), functional.axpy(-1.0, upper_by_y, hessian_v)
        )
        searches = self.plan.multiplier_update == "line search"
        squares = functional.dot(residual, residual).detach()
        if searches:
            curvature = functional.dot(residual, autodiff.vjp(gradient, y, residual)).detach()
            v_new = functional.axpy(squares / (curvature + _TINY), residual, v, factor=-1.0)
        else:
            curvature, v_new = squares, _moved(v, residual, etas)
        start = ll_state or rule.fresh_state(y)
        y_new, state = rule.update(y, functional.detached(gradient), start, decay_included=True)
        v_new, y_new, slots = functional.cut_lists(v_new, y_new, state.flat(), together_with=[squares, curvature])
        state = state.with_slots(slots)
        size, curved = squares.item(), curvature.item()
        norm = math.sqrt(size) if functional.safe_squares(size) else functional.norm(residual)
        diagnostics = {"dm_mu": mu, "dm_residual": norm, "dm_ul_lr": ul_rate}
        if searches and math.isfinite(norm):
            if not math.isfinite(size) or not math.isfinite(curved):  # perhaps only because squares overflowed
                unit = functional.times(1.0 / norm, residual)
                curved = functional.dot(unit, autodiff.vjp(gradient, y, unit)).item()
                # an infinite curvature gives a rate of 0, by which v would stay as if nothing had overflowed
                rate = 1.0 / (curved + _TINY) if math.isfinite(curved) else math.nan
                v_new = functional.cut(_moved(v, residual, [rate] * len(v)))
            flat = norm > 0.0 and curved <= 0.0
            diagnostics["dm_breakdown"] = float(flat)
            if flat:
                self.warn("DM: the lower objective has no positive curvature, and its multiplier takes gradient steps")
                v_new = functional.cut(_moved(v, residual, etas))

        def lagrangian() -> jt.Var:
            gradient = autodiff.grad(with_weight_decay(lower_value(), y, rule), y)
            return upper_value() - functional.dot(gradient, v)

        return {
            "hyper_gradient": direction,
            "ul_learning_rate": ul_rate,
            "ll_parameters": y_new,
            "ll_state": state,
            "multiplier": v_new,
            "upper_loss": float(upper.item()),
            "lower_loss": float(value.item()),
            "diagnostics": diagnostics,
            "value": lagrangian,
        }

    def _step_sizes(self, options: DMOptions, k: int, mu: float, lr_y: float) -> tuple[float, float]:
        """Eta and the learning rate of x."""
        if mu == 0.0:
            lr_x = learning_rates(self.solver_config["upper_level_opt"])[0]
            eta, ul_rate = options.eta0 * (k + 1) ** (-options.tau / 2) * lr_y, lr_x * lr_y * (k + 1) ** (-options.tau)
        else:
            a, b = {"s1": (2, 7), "s2": (1, 5), "s3": (0, 3)}[options.strategy]
            eta = (k + 1) ** (-options.tau / 2) * mu**a * lr_y
            ul_rate = (k + 1) ** (-1.5 * options.tau) * mu**b * lr_y
        return options.auxiliary_v_lr or eta, ul_rate


def _moved(v: Sequence[jt.Var], residual: Sequence[jt.Var], etas: Sequence[float]) -> list[jt.Var]:
    """A gradient step of each entry of v, with a size of its own."""
    return [functional.axpy(-eta, [r], [own])[0] for eta, r, own in zip(etas, residual, v, strict=True)]
