"""One pass through both chains: lower loop, then hypergradient."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
import functools
import math
import time
from typing import Any

from jboat import autodiff, functional, lower_objective, registry, running_statistics
from jboat.chain_plan import ChainOptions, ChainPlan
from jboat.fo_ol.first_order import FirstOrder
from jboat.gm_ol.sequential_ds import SequentialDS, makes_functional_dynamical_system
from jboat.lower_objective import Objective
from jboat.na_ol.sequential_hg import SequentialHG, makes_functional_na_operation
from jboat.optim import OptimizerState
from jboat.trainers.data.step_batches import Pair
from jboat.trainers.errors import NonFiniteError
from jboat.trainers.outer_step import device_memory
from jboat.trainers.outer_step.result import HyperGradientResult
from jboat.trajectory import Trajectory
import jittor as jt
import numpy as np


@dataclass
class Problem:
    """The two levels and the operators that solve them.

    Attributes:
        plan: what the chains want; that of no operators where a first-order method takes their place.
        config: what the operators read, with the sections as they were when the outer step under way began.
        options: the options that these sections give.
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
    gda_loss: Objective | None = None
    fo_op: str | None = None
    plan: ChainPlan = field(init=False, repr=False)
    config: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    options: ChainOptions = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.plan = registry.plan(*((self.gm_op, self.na_op) if self.fo_op is None else ((), ())))
        self.options = ChainOptions(self.plan, self.config)
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
            chain_plan=self.plan,
            chain_options=self.options,
        )

    @property
    def has_lower_loop(self) -> bool:
        """Whether an outer step runs K lower steps."""
        return self.fo_op is None and self.plan.has_lower_loop

    @property
    def finisher(self) -> str:
        """The operator that finishes the hypergradient."""
        mover = self.plan.multiplier_mover
        return self.fo_op or (mover.name if mover is not None else self.na_op[-1])

    def levels(self, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The arguments that every operator's constructor takes, with another configuration where one is given."""
        return {
            "ll_objective": self.ll_objective,
            "ul_objective": self.ul_objective,
            "ll_model": self.ll_model,
            "ul_model": self.ul_model,
            "solver_config": self.config if config is None else config,
        }

    @functools.cached_property
    def lower_chain(self) -> SequentialDS:
        """The operators of the lower level."""
        return self._make_lower_chain(self.config)

    @functools.cached_property
    def upper_chain(self) -> SequentialHG:
        """The operators of the hypergradient."""
        return makes_functional_na_operation(self.na_op, ll_var=self.ll_var, ul_var=self.ul_var, **self.levels())

    @functools.cached_property
    def method(self) -> FirstOrder:
        """The first-order method."""
        assert self.fo_op is not None
        method: FirstOrder = registry.operators("fo")[self.fo_op].cls(
            **self.levels(), ll_var=self.ll_var, ul_var=self.ul_var, lower_loop=self.lower_iters
        )
        return method

    @functools.cached_property
    def upper_statistics(self) -> list[jt.Var]:
        """The upper model's running statistics."""
        return functional.buffers(self.ul_model)

    def advance_upper_statistics(self, trajectory: Trajectory) -> None:
        """Let them advance once: by the upper objective or, where that does not run the upper model, by the lower."""
        noted = trajectory.upper_statistics
        running_statistics.advance(self.upper_statistics, noted.get("upper"), noted.get("lower"))

    @functools.cached_property
    def lower_chain_without_graphs(self) -> SequentialDS:
        """The same lower steps where nothing is differentiated."""
        plan = self.plan.without_graphs()
        own = {"chain_plan": plan, "chain_options": ChainOptions(plan, self.config)}
        return self._make_lower_chain(ChainMap(own, self.config))

    def _make_lower_chain(self, config: Mapping[str, Any]) -> SequentialDS:
        return makes_functional_dynamical_system(self.gm_op, lower_loop=self.lower_iters, **self.levels(config))


@dataclass
class Events:
    """What the trainer does between the phases of a pass, what it wants to know, and the seconds of each phase."""

    call: Callable[..., None] = lambda hook, *extra: None
    on_lower_step: Callable[[int, Trajectory], None] | None = None
    lower_losses: bool = False
    seconds: dict[str, float] = field(default_factory=lambda: {"lower": 0.0, "hypergradient": 0.0})


def bilevel_pass(
    problem: Problem,
    pair: Pair,
    *,
    step: int,
    initial: Sequence[jt.Var],
    ll_state: OptimizerState | None,
    reseed: Callable[[int], None] | None,
    events: Events,
) -> HyperGradientResult:
    """Run the lower loop and the hypergradient chain; nothing of the user's is changed but running statistics.

    Args:
        problem: the two levels.
        pair: the lower batch, or K of them, and the upper batch.
        step: the outer step under way, counted from 1, for error messages.
        initial: y_0, one Var per lower-level variable.
        ll_state: the lower optimizer's state before the first step; None for a fresh one.
        reseed: seeds Jittor's generator for a lower step, or None.
        events: called between the phases.

    Returns:
        The result; its ``failure`` tells of a loss of the lower loop, or a y_K, that is NaN or infinite.
    """
    ll_feed, ul_feed = pair
    events.call("on_lower_loop_start")
    begun = time.perf_counter()
    with device_memory.named(problem.gm_op[-1], step):
        lower = _lower_loop(problem, problem.lower_chain, pair, initial, ll_state, reseed, events.on_lower_step)
    trajectory: Trajectory = lower["auxiliary_model"]
    lower_loss = float(lower["lower_loss"].item())
    failure = _lower_loop_failure(problem.gm_op[-1], step, lower_loss, trajectory)
    events.seconds["lower"] += time.perf_counter() - begun
    events.call("on_lower_loop_end")

    events.call("on_hypergradient_start")
    begun = time.perf_counter()
    upper = problem.upper_chain.compute_gradients(
        ll_feed_dict=ll_feed,
        ul_feed_dict=ul_feed,
        auxiliary_model=trajectory,
        max_loss_iter=lower["max_loss_iter"],
    )[-1]
    problem.advance_upper_statistics(trajectory)
    events.seconds["hypergradient"] += time.perf_counter() - begun
    diagnostics = dict(upper.get("diagnostics", {}))
    if problem.plan.chooser is not None:
        diagnostics["ptt_index"] = float(lower["max_loss_iter"])
    if problem.plan.aggregator is not None:
        diagnostics["gda_alpha"] = problem.options.weight(0)
    ll_losses = trajectory.losses() if events.lower_losses else []
    result = HyperGradientResult(
        gradients=upper["hyper_gradient"],
        upper_loss=upper["upper_loss"],
        lower_loss=lower_loss,
        ll_init_gradient=upper.get("ll_init_gradient"),
        diagnostics=diagnostics,
        ll_losses=ll_losses,
        ll_parameters=trajectory.parameters(len(trajectory)),
        upper_loss_at=trajectory.parameters(lower["max_loss_iter"]) if problem.plan.chooser is not None else [],
        ll_state=trajectory.optimizer_state,
        failure=failure,
    )
    events.call("on_hypergradient_end", result)
    return result


def _lower_loop(
    problem: Problem,
    chain: SequentialDS,
    pair: Pair,
    initial: Sequence[jt.Var],
    ll_state: OptimizerState | None,
    reseed: Callable[[int], None] | None,
    on_step: Callable[[int, Trajectory], None] | None = None,
) -> dict[str, Any]:
    """What the last operator of the lower-level chain returns."""
    trajectory = Trajectory(
        problem.ll_model,
        problem.ll_var,
        problem.ll_optimizer,
        initial=initial,
        state=ll_state,
        remat_every=problem.options.rebuilt_at_once or 1,
        reseed=reseed,
    )
    return chain.optimize(ll_feed_dict=pair[0], ul_feed_dict=pair[1], auxiliary_model=trajectory, on_step=on_step)[-1]


def unrolled_value(
    problem: Problem,
    pair: Pair,
    *,
    initial: Sequence[jt.Var],
    ll_state: OptimizerState | None,
    reseed: Callable[[int], None] | None,
) -> float:
    """F(x, y_K(x)) by running the lower loop; arguments as those of :func:`bilevel_pass`."""
    chain = problem.lower_chain_without_graphs
    trajectory: Trajectory = _lower_loop(problem, chain, pair, initial, ll_state, reseed)["auxiliary_model"]

    def objective(model: jt.Module) -> jt.Var:
        return lower_objective.call(problem.ul_objective, pair[1], problem.ul_model, model, parameters=problem.ll_var)

    return float(trajectory.evaluate(objective).item())


def lower_gradient_norm(
    problem: Problem, pair: Pair, y: Sequence[jt.Var], *, reseed: Callable[[int], None] | None
) -> float:
    """The norm of the lower problem's gradient by y on the batch of the last lower step; nothing changes.

    The lower problem is f with the lower optimizer's coupled weight decay and implicit MAML's proximal term, but
    without GDA's share of F, so that a y off the lower solution shows whatever the lower steps minimised.
    """
    last = problem.lower_iters - 1 if problem.has_lower_loop else 0
    lower = lower_objective.LowerObjective(
        problem.ll_objective, problem.ul_objective, problem.ul_model, problem.config, aggregated=False
    )
    view = Trajectory(problem.ll_model, problem.ll_var, problem.ll_optimizer, initial=y)
    parameters = view.parameters()
    anchor = functional.detached(problem.ul_var)
    if reseed:
        reseed(last)
    with functional.preserved(functional.buffers(problem.ul_model)):
        loss = view.evaluate(lambda model: lower(model, problem.ll_var, last, pair[0], pair[1], anchor), parameters)
    loss = lower_objective.with_weight_decay(loss, parameters, view.update_rule)
    return functional.norm(functional.detached(autodiff.grad(loss, parameters)))


def _lower_loop_failure(operator: str, step: int, lower_loss: float, trajectory: Trajectory) -> NonFiniteError | None:
    """What of a lower loop is NaN or infinite, and since when."""
    last = len(trajectory)
    failure = lower_failure(operator, step, last, lower_loss, trajectory.parameters(last))
    if failure is None:
        return None
    inner_step = next((k for k in range(1, last) if not finite(trajectory.parameters(k))), last)
    return failure if inner_step == last else _not_finite(operator, step, inner_step)


def lower_failure(
    operator: str, step: int, inner_step: int, loss: float, after: Sequence[jt.Var]
) -> NonFiniteError | None:
    """What is NaN or infinite of the loss before a lower step, and of the variables after it."""
    if not math.isfinite(loss):
        return NonFiniteError(f"the lower loss is {loss}", operator=operator, step=step, inner_step=inner_step)
    return None if finite(after) else _not_finite(operator, step, inner_step)


def _not_finite(operator: str, step: int, inner_step: int) -> NonFiniteError:
    what = "the lower-level variables are not finite"
    return NonFiniteError(what, operator=operator, step=step, inner_step=inner_step)


def failure_of(problem: Problem, result: HyperGradientResult, step: int) -> NonFiniteError | None:
    """What of a result is NaN or infinite: a lower loss, the upper loss or a gradient."""
    operator = problem.finisher
    if result.failure is not None:
        return result.failure
    if not math.isfinite(result.upper_loss):
        return NonFiniteError(f"the upper loss is {result.upper_loss}", operator=operator, step=step)
    if not math.isfinite(result.norm) and not finite(result.gradients):
        return NonFiniteError("the hypergradient is not finite", operator=operator, step=step)
    if result.ll_init_gradient is not None and not finite(result.ll_init_gradient):
        return NonFiniteError("the gradient by y_0 is not finite", operator=operator, step=step)
    return None


def finite(variables: Sequence[jt.Var]) -> bool:
    """Whether every entry is finite.

    Jittor's own ``isfinite`` is compiled with fast-math, and wrong. One number from the device, the sum of squares,
    tells of finite entries; where it is not finite, it may have overflowed, and numpy looks at every entry.
    """
    if math.isfinite(functional.dot(variables, variables).item()):
        return True
    return all(np.isfinite(v.numpy()).all() for v in variables)
