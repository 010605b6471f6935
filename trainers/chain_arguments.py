"""Check which operators or method a trainer is asked for, and what goes with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jboat import registry
from jboat.chain_plan import ChainOptions, ChainPlan
from jboat.trainers import arguments


class Methods(NamedTuple):
    """What an outer step is made of.

    Attributes:
        gm_op: the lower-level chain in the order it runs.
        na_op: the hypergradient chain in the order it runs.
        single: the method that replaces both, or None.
        plan: what the chains want; of none where a method replaces them.
        sections: the operators' options.
    """

    gm_op: tuple[str, ...]
    na_op: tuple[str, ...]
    single: str | None
    plan: ChainPlan
    sections: Mapping[str, Mapping[str, Any]]


def checked(
    gm_op: Sequence[str],
    na_op: Sequence[str],
    fo_op: str | None,
    sl_op: str | None,
    solver_config: Mapping[str, Mapping[str, Any]] | None,
    *,
    lower_iters: int,
    accumulate: int,
    warm_start: bool,
    lower_batches: str,
) -> Methods:
    """The chains in their order, or the method in their place, and their options.

    Raises:
        TypeError: for an argument of a wrong kind.
        ValueError: for an invalid chain, options that do not fit, or what the method cannot do.
    """
    gm_chain, na_chain = registry.order_chain(gm_op, na_op)
    method_in_place_of_chains(fo_op, sl_op, gm_chain, na_chain, accumulate)
    single = method_that_replaces_chains(fo_op, sl_op, warm_start, lower_batches)
    plan = registry.plan(*((gm_chain, na_chain) if single is None else ((), ())))
    sections = solver_config if solver_config is not None else {}
    registry.check_sections(sections)
    chain_options(plan, sections, lower_iters)
    if plan.multiplier_mover is not None:
        single_step(f"gm_op {plan.multiplier_mover.name}", warm_start, lower_batches)
    return Methods(gm_chain, na_chain, single, plan, sections)


def chain_options(plan: ChainPlan, solver_config: Mapping[str, Any], lower_iters: int) -> None:
    """Check the options that depend on the chains and the number of lower steps.

    Raises:
        ValueError: if an operator's options do not fit, such as an RGT that would cut no step, or all of them.
    """
    options = ChainOptions(plan, solver_config)
    for operator in plan.operators:
        check = getattr(operator.cls, "check_options", None)
        if check is not None:
            check(options.of(operator), plan, lower_iters)
    if plan.truncator is not None and not 1 <= options.tracked_from < lower_iters:
        raise ValueError(
            f"{plan.truncator.name} must take between 1 and {lower_iters - 1} (lower_iters - 1) lower steps as "
            f"constants, got {options.tracked_from}"
        )


def method_in_place_of_chains(
    fo_op: Any, sl_op: Any, gm_op: Sequence[str], na_op: Sequence[str], accumulate: Any
) -> None:
    """Require at most one method, that there is one of its name, and with ``sl_op`` no chains besides.

    Raises:
        ValueError: for anything else.
    """
    for argument, name in (("fo_op", fo_op), ("sl_op", sl_op)):
        if name is not None:
            arguments.choice(argument, name, sorted(registry.operators(argument[:2])))  # type: ignore[arg-type]
    if sl_op is None:
        return
    if fo_op is not None:
        raise ValueError(f"sl_op={sl_op!r} and fo_op={fo_op!r} both replace the chains; give one of them")
    for argument, chain, own in (("gm_op", gm_op, ("NGD",)), ("na_op", na_op, ("RAD",))):
        if tuple(chain) != own:
            raise ValueError(f"sl_op={sl_op!r} replaces both chains; leave out {argument}, got {list(chain)}")
    if accumulate != 1:
        raise ValueError(
            f"accumulate must be 1 with sl_op={sl_op!r}, got {accumulate!r}: y, v and x move together in every step; "
            "take larger batches"
        )


def method_that_replaces_chains(
    fo_op: str | None, sl_op: str | None, warm_start: bool, lower_batches: str
) -> str | None:
    """The method that replaces both chains, or None; refuses what it cannot do.

    Raises:
        ValueError: for a cold start, or a lower batch of its own for every inner step where the method takes none.
    """
    method = fo_op if sl_op is None else sl_op
    if method is not None:
        argument = f"fo_op={method!r}" if sl_op is None else f"sl_op={method!r}"
        single_step(argument, warm_start, "shared" if registry.takes_fresh_batches(method) else lower_batches)
    return method


def single_step(method: str, warm_start: bool, lower_batches: str) -> None:
    """Refuse what a method without a lower loop cannot do.

    Raises:
        ValueError: for a cold start, or a lower batch of its own for every inner step.
    """
    if not warm_start:
        raise ValueError(f"warm_start must be True with {method}, which moves y on from where it is")
    if lower_batches != "shared":
        raise ValueError(f"lower_batches must be 'shared' with {method}, got {lower_batches!r}")


def projections(
    ll_projection: Any,
    ul_projection: Any,
    plan: ChainPlan,
    solver_config: Mapping[str, Any],
    fo_op: str | None,
    sl_op: str | None,
) -> None:
    """Require callables, and a hypergradient that goes through the projection of the lower level.

    Raises:
        TypeError: if one is given that cannot be called.
        ValueError: if the chain, or the method in its place, does not see the lower level's.
    """
    for argument, projection in (("ll_projection", ll_projection), ("ul_projection", ul_projection)):
        if projection is not None and not callable(projection):
            raise TypeError(f"{argument} must be a callable on a list of Vars, got {projection!r}")
    if ll_projection is None:
        return
    if fo_op is not None:
        method = registry.operators("fo")[fo_op]
        why = method.cls.cannot_project(method.options_in(solver_config))  # type: ignore[attr-defined]
        if why:
            raise ValueError(f"ll_projection: fo_op={fo_op!r} cannot constrain its lower level {why}")
        return
    if sl_op is not None:
        raise ValueError(
            f"ll_projection: sl_op={sl_op!r} follows the equations of an unconstrained lower level; take RAD, or a "
            "first-order method"
        )
    lower_step_is_seen("ll_projection", plan, solver_config)


def lower_step_is_seen(argument: str, plan: ChainPlan, solver_config: Mapping[str, Any]) -> None:
    """Require a chain whose hypergradient goes through the lower optimizer's own steps.

    Args:
        argument: what changes the steps.
        plan: what the chains want.
        solver_config: the operators' options.

    Raises:
        ValueError: if it does not, naming the operator.
    """
    if plan.differentiates_steps and plan.has_lower_loop:
        return
    last = plan.multiplier_mover or plan.operators[-1]
    sees = last.upper.sees_lower_step
    if sees is not None and sees(ChainOptions(plan, solver_config).of(last)):
        return
    mend = "" if sees is None else f"set solver_config['{last.name}']['through_optimizer'] = True, or "
    raise ValueError(
        f"{argument}: {last.name} does not see it, since it differentiates no step of the lower optimizer; {mend}take "
        "RAD, RGT before RAD, or FD with through_optimizer"
    )


def learned_are_seen(plan: ChainPlan, solver_config: Mapping[str, Any], single: str | None) -> None:
    """Require a chain that differentiates the lower optimizer's steps by the optimizer's numbers.

    Raises:
        ValueError: if it does not, naming the operator.
    """
    argument = "ll_hyperparameters"
    if single is not None:
        raise ValueError(f"{argument}: {single} does not see them, since it differentiates no step; take RAD")
    if plan.initializer is not None:
        raise ValueError(
            f"{argument}: {plan.initializer.name} does not see them, since its hypergradient is that of the "
            "initialisation, which x is; take RAD"
        )
    last = plan.operators[-1]
    if plan.has_lower_loop and last.upper.solves_with_hessian:
        raise ValueError(
            f"{argument}: {last.name} does not see them, since it differentiates where the lower steps lead and "
            "not the steps; take RAD, RGT before RAD, or FD with through_optimizer"
        )
    lower_step_is_seen(argument, plan, solver_config)
