"""Which operators there are, how they are configured, and which chains of them make sense."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
from dataclasses import is_dataclass
import functools
import importlib
import itertools
from typing import Any, TypeVar

from jboat.chain_plan import ChainOptions, ChainPlan
from jboat.registered_operator import Kind, Operator
from jboat.spelling import nearest

_C = TypeVar("_C", bound=type)
_NEAR_CHAINS = 5
_MUST_SAY = {
    "GDA": "weight",
    "DI": "next_start",
    "DM": "moves_multiplier",
    "PTT": "chooses_iterate",
    "RGT": "tracked_from",
    "IAD": "starts_from_x",
}
"""The capability without which an operator in this place would not do what the chain is chosen for."""


class DynamicalSystemRules:
    """The order of the lower-level operators: groups from first to last."""

    gradient_order: tuple[tuple[str, ...], ...] = (("GDA", "DI"), ("NGD", "DM"))

    @classmethod
    def get_gradient_order(cls) -> list[list[str]]:
        """The groups as lists; an operator that takes another's place stands right after it."""
        return [[name for role in group for name in (role, *_added(role))] for group in cls.gradient_order]


class HyperGradientRules(DynamicalSystemRules):
    """The order of the hypergradient operators: groups from first to last."""

    gradient_order = (("PTT", "FOA", "RGT"), ("IAD", "RAD", "FD", "IGA"), ("CG", "NS", "NYS"))


_operators: dict[str, Operator] = {}


def register_operator(
    kind: Kind, *, options: type | None = None, cost: str = "", like: str | None = None
) -> Callable[[_C], _C]:
    """Class decorator that makes an operator known under its class name.

    Args:
        kind: ``"gm"`` for lower-level dynamics, ``"na"`` for hypergradients, ``"fo"`` for first-order methods, ``"sl"``
            for stochastic single-loop methods.
        options: a dataclass with a default for every field; the operator's section of ``solver_config`` fills it.
        cost: gradients, Hessian-vector products and memory in an outer step, in words, for ``python -m jboat ops``.
        like: the built-in operator whose place in a chain this one can take, such as ``"CG"``: it is valid wherever
            that one is, and is run in the same order. Needed by new ``gm`` and ``na`` operators. What its class does
            not say itself, in ``capabilities`` and by ``options``, it has from that one.

    Raises:
        TypeError: if ``options`` is no dataclass, or the class's ``capabilities`` are of a wrong kind.
        ValueError: for another ``kind``, if another class has the name, if ``like`` is missing or no built-in, or if
            the class's capabilities lack what that place asks for or cannot read its options.
    """
    if kind not in ("gm", "na", "fo", "sl"):
        raise ValueError(f"kind must be 'gm', 'na', 'fo' or 'sl', got {kind!r}")
    if options is not None and not is_dataclass(options):
        raise TypeError(f"options must be a dataclass, got {options!r}")
    rules = {"gm": DynamicalSystemRules, "na": HyperGradientRules}
    roles = [name for group in rules[kind].gradient_order for name in group] if kind in rules else []

    def register(cls: _C) -> _C:
        name = cls.__name__
        if name in _operators:
            raise ValueError(f"an operator named {name!r} is registered already: {_operators[name].cls}")
        role = like or name
        if (roles or like) and role not in roles:
            given = f"like={like!r}" if like else "no like="
            places = f"one of {', '.join(roles)}" if roles else f"left out for kind {kind!r}"
            raise ValueError(f"register_operator of {name}: {given}; like must be {places}.{nearest(role, roles)}")
        operator = _with_capabilities(Operator(name, kind, cls, options, cost, role))
        _operators[name] = operator
        gm_chains.cache_clear()
        na_chains.cache_clear()
        return cls

    return register


def _with_capabilities(operator: Operator) -> Operator:
    """The operator with the capabilities and options that its class says or inherits, else those of its place.

    Raises:
        TypeError: if the class's ``capabilities`` are of a wrong kind.
        ValueError: if they lack what its place asks for, or cannot read its options.
    """
    name, role = operator.name, operator.role
    if role != name:
        importlib.import_module(f"jboat.{operator.kind}_ol")  # which registers the built-in, unless that has happened
    model = _operators.get(role, operator)
    if operator.options is not None:
        shared = vars(operator.cls).get("shares_options_with", ())  # not a base class's, which has options of its own
        operator = operator._replace(sections=(name, *shared), section_options=operator.options)
    else:
        owner = registered(operator.cls) or model
        operator = operator._replace(sections=owner.sections, section_options=owner.section_options)
    if operator.kind in ("fo", "sl"):
        return operator
    capabilities = getattr(operator.cls, "capabilities", None)
    if operator.kind == "gm":
        operator = operator._replace(lower=model.lower if capabilities is None else capabilities)
    else:  # how a multiplier moves beside it, an operator says itself
        inherited = dataclasses.replace(model.upper, multiplier_update=None)
        operator = operator._replace(upper=inherited if capabilities is None else capabilities)
    if role != name:  # those of the built-ins are tested, and reading them would start Jittor
        operator.check_capabilities()
    wanted = _MUST_SAY.get(role)
    if wanted is not None and not getattr(operator.capabilities, wanted):
        raise ValueError(
            f"register_operator of {name}: like={role!r}, but its capabilities lack {wanted}, which makes a {role}; "
            f"say it there, or leave the attribute capabilities out to have those of {role}"
        )
    return operator


def _added(role: str) -> list[str]:
    """The operators registered to take a built-in's place."""
    return [name for name, operator in _operators.items() if operator.role == role != name]


def in_place_of(role: str, names: Iterable[str]) -> Operator | None:
    """The operator of a chain that takes a built-in's place; None where the chain has none."""
    return next((_operators[name] for name in names if name in _operators and _operators[name].role == role), None)


def registered(cls: type) -> Operator | None:
    """The operator that a class is, or that the nearest of its base classes is; None where there is none."""
    of_classes = {operator.cls: operator for operator in _operators.values()}
    return next((of_classes[base] for base in cls.__mro__ if base in of_classes), None)


def plan(gm_op: Iterable[str], na_op: Iterable[str]) -> ChainPlan:
    """What the operators of a pair of chains want, whether or not it is in the grammar.

    Args:
        gm_op: names of lower-level operators; those that are not registered add nothing.
        na_op: names of hypergradient operators; likewise.
    """
    chains = [[_operators[name] for name in names if name in _operators] for names in (gm_op, na_op)]
    return ChainPlan.of(*chains, rebuilder=_operators.get("RAD"))


def plan_and_options(solver_config: Mapping[str, Any]) -> tuple[ChainPlan, ChainOptions]:
    """The plan and the options that a ``solver_config`` holds already, else those of its chains."""
    made = solver_config.get("chain_plan")
    if made is None:
        made = plan(solver_config.get("gm_op") or (), solver_config.get("na_op") or ())
    return made, solver_config.get("chain_options") or ChainOptions(made, solver_config)


def zero_because(name: str) -> str:
    """Why an operator's hypergradient may be exactly zero, in a clause; empty where there is no such reason."""
    return str(getattr(_operators[name].cls, "zero_because", ""))


def takes_fresh_batches(name: str) -> bool:
    """Whether a method in place of the chains takes a batch of its own for every lower step, whatever it is told."""
    return bool(getattr(_operators[name].cls, "takes_fresh_batches", False))


def default_aggregator() -> Operator:
    """The operator that says how both objectives are mixed where no operator of the chain does."""
    return _operators["GDA"]


def operators(kind: Kind | None = None) -> dict[str, Operator]:
    """The registered operators by name, of one kind or of all."""
    return {name: op for name, op in _operators.items() if kind in (None, op.kind)}


def options(solver_config: Mapping[str, Any], name: str) -> Any:
    """The operator's options: defaults, overridden by its section of ``solver_config``.

    Raises:
        TypeError: if the section is not a mapping.
        ValueError: for an unknown key or a value out of range.
    """
    operator = _operators[name]
    if operator.section_options is None:
        raise ValueError(f"operator {name} has no options, got solver_config[{name!r}] = {solver_config.get(name)!r}")
    return operator.options_in(solver_config)


def check_sections(solver_config: Mapping[str, Any]) -> None:
    """Check every section of a trainer's ``solver_config``.

    Raises:
        TypeError: if it or a section is not a dict.
        ValueError: for an unknown section or key, or a value out of range.
    """
    if not isinstance(solver_config, Mapping):
        raise TypeError(f"solver_config must be a dict of sections, got {type(solver_config).__name__}")
    valid = sorted(name for name, op in _operators.items() if op.options is not None)
    for name in solver_config:
        if name not in valid:
            raise ValueError(
                f"solver_config has no section {name!r}; it may have {', '.join(valid)}.{nearest(name, valid)}"
            )
        try:
            options(solver_config, name)
        except TypeError as error:
            raise TypeError(_operators[name].misfit(solver_config[name]) or str(error)) from error


def adjusted_order(names: Sequence[str], gradient_order: Sequence[Sequence[str]], argument: str) -> list[str]:
    """Sort ``names`` by the rules.

    Args:
        names: operator names in any order.
        gradient_order: groups from first to last.
        argument: what to call the list in an error.

    Raises:
        TypeError: if ``names`` is a string or not a sequence.
        ValueError: for an unknown or a repeated name.
    """
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise TypeError(f"{argument} must be a list of operator names, got {names!r}")
    valid = [name for group in gradient_order for name in group]
    given = list(names)
    for name in given:
        if name not in valid:
            raise ValueError(
                f"{argument}: unknown operator {name!r}; valid are {', '.join(valid)}.{nearest(name, valid)}"
            )
        if given.count(name) > 1:
            raise ValueError(f"{argument}: operator {name!r} is repeated in {given}; name each operator once")
    return sorted(given, key=valid.index)


def _with_takers(chains: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The chains of the grammar with every registered operator in its place."""
    return [chain for places in chains for chain in itertools.product(*((role, *_added(role)) for role in places))]


@functools.cache
def gm_chains() -> list[tuple[str, ...]]:
    """Every lower-level chain, in the order it runs: ``[GDA] [DI] NGD | [GDA] DM [NGD]``."""
    chains: list[tuple[str, ...]] = []
    for gda in ((), ("GDA",)):
        chains += [(*gda, *di, "NGD") for di in ((), ("DI",))]
        chains += [(*gda, *ngd, "DM") for ngd in ((), ("NGD",))]
    return _with_takers(chains)


@functools.cache
def na_chains() -> list[tuple[str, ...]]:
    """Every hypergradient chain, in the order it runs."""
    chains: list[tuple[str, ...]] = []
    for ptt, rgt in itertools.product(((), ("PTT",)), ((), ("RGT",))):
        chains += [(*ptt, *rgt, last) for last in ("RAD", "FD", "IGA", "CG", "NS", "NYS")]
        chains += [(*ptt, *rgt, "IAD", *last) for last in ((), ("CG",), ("NS",), ("NYS",))]
    chains += [(*ptt, "FOA", "IAD") for ptt in ((), ("PTT",))]
    return _with_takers(chains)


def valid_chains() -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Every valid pair of a lower-level chain and a hypergradient chain."""
    return [pair for pair in itertools.product(gm_chains(), na_chains()) if not _conflict(*pair)]


def _conflict(gm: tuple[str, ...], na: tuple[str, ...]) -> str:
    together = plan(gm, na)
    learner, initializer, mover = together.start_learner, together.initializer, together.multiplier_mover
    if learner and initializer:
        return (
            f"{initializer.name} makes the initialisation the upper-level variable, so {learner.name} cannot learn it "
            "too; drop one of them"
        )
    if mover and together.multiplier_update is None:
        return f"{mover.name} needs na_op RAD or CG, which selects how its multiplier is updated"
    return ""


def order_gm(names: Sequence[str]) -> tuple[str, ...]:
    """Order a lower-level chain and check it against the grammar.

    Raises:
        TypeError: if ``names`` is not a list of names.
        ValueError: for an unknown or repeated name, or a chain outside the grammar.
    """
    chain = tuple(adjusted_order(names, DynamicalSystemRules.get_gradient_order(), "gm_op"))
    if chain not in gm_chains():
        raise ValueError(f"gm_op {list(names)} is not a chain; {_listing(chain, gm_chains())}")
    return chain


def order_na(names: Sequence[str]) -> tuple[str, ...]:
    """Order a hypergradient chain and check it against the grammar.

    Raises:
        TypeError: if ``names`` is not a list of names.
        ValueError: for an unknown or repeated name, or a chain outside the grammar.
    """
    chain = tuple(adjusted_order(names, HyperGradientRules.get_gradient_order(), "na_op"))
    if chain not in na_chains():
        raise ValueError(f"na_op {list(names)} is not a chain; {_listing(chain, na_chains())}")
    return chain


def order_chain(gm: Sequence[str], na: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Order both chains and check that they go together.

    Raises:
        TypeError: if either is not a list of names.
        ValueError: for a name, a chain or a pair that is not valid.
    """
    gm_chain, na_chain = order_gm(gm), order_na(na)
    problem = _conflict(gm_chain, na_chain)
    if problem:
        raise ValueError(f"gm_op {list(gm)} with na_op {list(na)}: {problem}")
    return gm_chain, na_chain


def _listing(given: tuple[str, ...], chains: list[tuple[str, ...]]) -> str:
    """The chains nearest to a refused one: those with the fewest operators more or less."""
    near = sorted(chains, key=lambda chain: len(set(given) ^ set(chain)))[:_NEAR_CHAINS]
    rest = "" if len(near) == len(chains) else ", among others that `python -m jboat ops --chains` lists"
    return "valid chains are " + ", ".join("+".join(chain) for chain in near) + rest
