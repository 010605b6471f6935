"""VSO: the value-function method BVFSM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from jboat import autodiff, functional
from jboat.fo_ol.first_order import Auxiliary, FirstOrder, FirstOrderStep
from jboat.levels import Batch
from jboat.registry import register_operator
import jittor as jt


@dataclass(frozen=True)
class VSOOptions:
    """Options of VSO.

    Attributes:
        z_loop: gradient steps on z in an outer step, at least 1.
        z_lr: their step size, positive.
        ll_l2_reg: weight of the regulariser of z at the first outer step, positive.
        ul_l2_reg: weight of the regulariser of y at the first outer step, at least 0.
        ul_ln_reg: tau, the weight of the barrier at the first outer step, positive.
        slack: what is added to the lower value besides the regulariser at the first outer step, at least 0.
        reg_decay: d: in outer step k all weights are divided by ``1 + d k``; at least 0.
        boundary: distance to infeasibility below which the logarithm is continued by a parabola, positive.
        warm_start: whether y goes on from where the last outer step left it, as its authors let it, or starts at z.
            In the first outer step it starts at z anyway.
    """

    z_loop: int = 10
    z_lr: float = 0.1
    ll_l2_reg: float = 0.1
    ul_l2_reg: float = 0.01
    ul_ln_reg: float = 1.0
    slack: float = 0.1
    reg_decay: float = 0.01
    boundary: float = 1e-3
    warm_start: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.z_loop, int) or self.z_loop < 1:
            raise ValueError(f"solver_config['VSO']['z_loop'] must be an integer >= 1, got {self.z_loop!r}")
        if not isinstance(self.warm_start, bool):
            raise ValueError(f"solver_config['VSO']['warm_start'] must be True or False, got {self.warm_start!r}")
        may_vanish = ("ul_l2_reg", "slack", "reg_decay")
        for name in (f.name for f in fields(self) if f.name != "warm_start"):
            value = getattr(self, name)
            if value < 0.0 or (value == 0.0 and name not in may_vanish):
                bound = ">= 0" if name in may_vanish else "positive"
                raise ValueError(f"solver_config['VSO'][{name!r}] must be {bound}, got {value}")


@register_operator(
    "fo",
    options=VSOOptions,
    cost="z_loop + lower_iters + 2 lower gradients, lower_iters + 1 upper ones; memory of one step",
)
class VSO(FirstOrder):
    """The lower problem as the constraint ``f(x, y) <= f_val(x)``, met by a logarithmic barrier.

    z, kept from step to step, takes ``z_loop`` gradient steps on ``f(x, z) + (l2 / 2) ||z||^2``, whose value plus
    ``slack`` is f_val. y starts at z, which is feasible, or with ``warm_start`` where it was, and takes ``lower_iters``
    steps of the lower optimizer on ``F + (reg / 2) ||y||^2 - tau ln(f_val - f(x, y))``, and x the gradient of the same
    value, with f_val's own gradient ``grad_x f(x, z)`` in it. Where ``s = f_val - f`` is below ``boundary`` b,
    ``-ln s`` is continued by its second-order expansion at b, so that an infeasible y is driven back. All weights
    decay as ``1 / (1 + reg_decay k)``.

    Its fixed point is biased by ``slack``, ``tau`` and the regularisers until they have decayed, and by the restart at
    z: the few steps from z, which knows nothing of F, do not reach the y that the surrogate asks for, so that of
    several lower solutions y stays near the one that z found. ``warm_start`` lets these steps add up.

    Source: Liu, Liu, Zeng and Zhang, "Value-function-based sequential minimization for bi-level optimization",
    arXiv 2110.04974, 2021.
    """

    keeps = ("z",)

    def optimize(
        self, ll_feed_dict: Batch, ul_feed_dict: Batch, current_iter: int, auxiliary: Auxiliary | None = None
    ) -> FirstOrderStep:
        """See :meth:`FirstOrder.optimize`."""
        options = self.options
        decay = 1.0 / (1.0 + options.reg_decay * current_iter)

        def regularised(v: Sequence[jt.Var]) -> jt.Var:
            return self.lower_value(v, ll_feed_dict) + 0.5 * options.ll_l2_reg * decay * functional.dot(v, v)

        z = self.descend(
            regularised, auxiliary["z"] if auxiliary else self.start(), lr=options.z_lr, steps=options.z_loop
        )
        bound = self.gradients(regularised, z, by_y=False)
        f_val = bound.value + options.slack * decay
        tau = options.ul_ln_reg * decay

        def surrogate(v: Sequence[jt.Var], bound: jt.Var) -> jt.Var:
            upper = self.upper_value(v, ul_feed_dict) + 0.5 * options.ul_l2_reg * decay * functional.dot(v, v)
            return upper + tau * _barrier(bound - self.lower_value(v, ll_feed_dict), options.boundary)

        def value(v: Sequence[jt.Var]) -> jt.Var:
            return surrogate(v, f_val)

        y, state = self.start() if options.warm_start and auxiliary else z, self.rule.load()
        for _ in range(self.lower_loop):
            y, state = self.lower_step(y, autodiff.grad(value(y), y), state)
        at_y = self.gradients(value, y, by_y=False)
        lower_loss, phi = self.lower_values(y, ll_feed_dict)
        gap = f_val - phi
        slope = _barrier_slope(float(gap.item()), options.boundary)
        return FirstOrderStep(
            gradients=functional.detached(functional.axpy(tau * slope, bound.by_x, at_y.by_x)),
            ll_parameters=y,
            ll_state=state,
            upper_loss=float(self.upper_value(y, ul_feed_dict).item()),
            lower_loss=float(lower_loss.detach().item()),
            auxiliary={"z": z},
            upper_loss_after_step=True,
            diagnostics={"vso_gap": float(gap.item()), "vso_tau": tau},
            value=lambda: surrogate(y, regularised(z) + options.slack * decay),
        )


def _barrier(s: jt.Var, b: float) -> jt.Var:
    """``-ln s`` for s >= b, its second-order expansion at b below."""
    inside = s >= b
    safe = jt.where(inside, s, jt.ones_like(s))
    t = (s - b) / b
    edge = -jt.log(jt.ones_like(s) * b)
    return jt.where(inside, -jt.log(safe), edge - t + 0.5 * t * t)


def _barrier_slope(s: float, b: float) -> float:
    """The derivative of :func:`_barrier` by s."""
    return -1.0 / s if s >= b else (-1.0 + (s - b) / b) / b
