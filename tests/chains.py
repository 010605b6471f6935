"""Run a pair of chains through the operators alone, without the trainer."""

from __future__ import annotations

from jboat.gm_ol.sequential_ds import makes_functional_dynamical_system
from jboat.na_ol.sequential_hg import makes_functional_na_operation
from jboat.trajectory import Trajectory
import jittor as jt


def solve(problem, gm, na, *, lower_iters, lr, sections=None, batches=({}, {}), index=None, optimizer=None, **config):
    """The terminal operator's dict; ``index`` overrides PTT's."""
    ul_model, ll_model = problem.models()
    ll_var, ul_var = list(ll_model.parameters()), list(ul_model.parameters())
    make = optimizer or (lambda params: jt.optim.SGD(params, lr))
    ll_optimizer = make(ll_var)
    solver_config = {"gm_op": gm, "na_op": na, "lower_level_opt": ll_optimizer, **(sections or {}), **config}
    levels = {
        "ll_objective": problem.f,
        "ul_objective": problem.F,
        "ll_model": ll_model,
        "ul_model": ul_model,
        "solver_config": solver_config,
    }
    replay = (sections or {}).get("RAD", {}).get("remat_every", 0)
    trajectory = Trajectory(
        ll_model, ll_var, ll_optimizer, initial=ul_var if "IAD" in na else None, remat_every=replay or 1
    )
    feeds = {"ll_feed_dict": batches[0], "ul_feed_dict": batches[1]}
    lower = makes_functional_dynamical_system(gm, lower_loop=lower_iters, **levels)
    reached = lower.optimize(auxiliary_model=trajectory, **feeds)[-1]
    upper = makes_functional_na_operation(na, ll_var=ll_var, ul_var=ul_var, **levels)
    result = upper.compute_gradients(
        auxiliary_model=trajectory, max_loss_iter=index or reached["max_loss_iter"], **feeds
    )[-1]
    return {**result, "max_loss_iter": reached["max_loss_iter"], "trajectory": trajectory}
