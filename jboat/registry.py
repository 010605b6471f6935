"""Which operators there are, how they are configured, and which chains of them make sense."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
import difflib
import functools
import itertools
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple, TypeVar

from jboat.plain_numbers import plain

Kind = Literal["gm", "na", "fo"]
_C = TypeVar("_C", bound=type)


class Operator(NamedTuple):
    """A registered operator.

    Attributes:
        name: the class's name.
        kind: ``"gm"``, ``"na"`` or ``"fo"``.
        cls: the class.
        options: the dataclass that holds its section of ``solver_config``.
        cost: gradients, products and memory, in words.
        role: the operator of the grammar whose place it takes; its own name where it is that operator.
    """

    name: str
    kind: Kind
    cls: type
    options: type | None
    cost: str
    role: str


class DynamicalSystemRules:
    """The order of the lower-level operators: groups from first to last."""

    gradient_order: tuple[tuple[str, ...], ...] = (("GDA", "DI"), ("NGD", "DM"))

    @classmethod
    def get_gradient_order(cls) -> list[list[str]]:
        """The groups as lists; an operator that takes another's place stands right after it."""
        return [[name for role in group for name in (role, *_added(role))] for group in cls.gradient_order]


class HyperGradientRules(DynamicalSystemRules):
    """The order of the hypergradient operators: groups from first to last."""

    gradient_order = (("PTT", "FOA", "RGT"), ("IAD", "RAD", "FD", "IGA"), ("CG", "NS"))


_operators: dict[str, Operator] = {}


def register_operator(
    kind: Kind, *, options: type | None = None, cost: str = "", like: str | None = None
) -> Callable[[_C], _C]:
    """Class decorator that makes an operator known under its class name.

    Args:
        kind: ``"gm"`` for lower-level dynamics, ``"na"`` for hypergradients, ``"fo"`` for first-order methods.
        options: a dataclass with a default for every field; the operator's section of ``solver_config`` fills it.
        cost: gradients, Hessian-vector products and memory in an outer step, in words, for ``python -m jboat ops``.
        like: the built-in operator whose place in a chain this one can take, such as ``"CG"``: it is valid wherever
            that one is, and is run in the same order. Needed by new ``gm`` and ``na`` operators.

    Raises:
        TypeError: if ``options`` is no dataclass.
        ValueError: for another ``kind``, if another class has the name, or if ``like`` is missing or no built-in.
    """
    if kind not in ("gm", "na", "fo"):
        raise ValueError(f"kind must be 'gm', 'na' or 'fo', got {kind!r}")
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
            places = f"one of {', '.join(roles)}" if roles else "left out for kind 'fo'"
            raise ValueError(f"register_operator of {name}: {given}; like must be {places}.{nearest(role, roles)}")
        _operators[name] = Operator(name, kind, cls, options, cost, role)
        gm_chains.cache_clear()
        na_chains.cache_clear()
        return cls

    return register


def needs_second_derivatives(gm_op: Iterable[str], na_op: Iterable[str]) -> bool:
    """Whether a pair of chains differentiates a lower gradient."""
    lower, upper = roles(gm_op), roles(na_op)
    return differentiates_steps(na_op) or bool(lower & {"DI", "DM"} or upper & {"CG", "NS"})


def _added(role: str) -> list[str]:
    """The operators registered to take a built-in's place."""
    return [name for name, operator in _operators.items() if operator.role == role != name]


def roles(names: Iterable[str]) -> set[str]:
    """The places of the grammar that a chain's operators take."""
    return {_operators[name].role if name in _operators else name for name in names}


def is_implicit(na_op: Iterable[str]) -> bool:
    """Whether a hypergradient chain is implicit MAML: IAD completed by CG, NS or one like them."""
    taken = roles(na_op)
    return "IAD" in taken and bool(taken & {"CG", "NS"})


def differentiates_steps(na_op: Iterable[str]) -> bool:
    """Whether a hypergradient chain pulls a cotangent back through the lower steps."""
    taken = roles(na_op)
    return "RAD" in taken or ("IAD" in taken and not taken & {"FOA", "CG", "NS"})


def operators(kind: Kind | None = None) -> dict[str, Operator]:
    """The registered operators by name, of one kind or of all."""
    return {name: op for name, op in _operators.items() if kind in (None, op.kind)}


def nearest(given: Any, valid: Iterable[str]) -> str:
    """`` Did you mean ...?`` when a valid spelling is near, else nothing."""
    names = {name.lower(): name for name in valid}
    close = difflib.get_close_matches(str(given).lower(), names, n=1)
    return f" Did you mean {names[close[0]]!r}?" if close else ""


def options(solver_config: Mapping[str, Any], name: str) -> Any:
    """The operator's options: defaults, overridden by its section of ``solver_config``.

    Raises:
        TypeError: if the section is not a mapping.
        ValueError: for an unknown key or a value out of range.
    """
    section = solver_config.get(name) or {}
    options_class = _operators[name].options
    if options_class is None:
        raise ValueError(f"operator {name} has no options, got solver_config[{name!r}] = {section!r}")
    if not isinstance(section, Mapping):
        raise TypeError(f"solver_config[{name!r}] must be a dict, got {type(section).__name__}")
    valid = [field.name for field in fields(options_class)]
    for key in section:
        if key not in valid:
            raise ValueError(
                f"solver_config[{name!r}] has no key {key!r}; it has {', '.join(valid)}.{nearest(key, valid)}"
            )
    return options_class(**{key: plain(value) for key, value in section.items()})


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
            raise TypeError(_misfit(name, solver_config[name]) or str(error)) from error


def _misfit(name: str, section: Any) -> str:
    """Which value of an operator's section is of a wrong kind, in a sentence; empty where none is."""
    wanted = {"float": (Real, "a number"), "int": (Integral, "an integer"), "str": (str, "a string")}
    options_class = _operators[name].options
    for field in fields(options_class) if options_class is not None and isinstance(section, Mapping) else ():
        kind, words = wanted.get(str(field.type).removesuffix(" | None"), (object, ""))
        if field.name in section and not isinstance(section[field.name], kind):
            return f"solver_config[{name!r}][{field.name!r}] must be {words}, got {section[field.name]!r}"
    return ""


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
        chains += [(*ptt, *rgt, last) for last in ("RAD", "FD", "IGA", "CG", "NS")]
        chains += [(*ptt, *rgt, "IAD", *last) for last in ((), ("CG",), ("NS",))]
    chains += [(*ptt, "FOA", "IAD") for ptt in ((), ("PTT",))]
    return _with_takers(chains)


def valid_chains() -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Every valid pair of a lower-level chain and a hypergradient chain."""
    return [pair for pair in itertools.product(gm_chains(), na_chains()) if not _conflict(*pair)]


def _conflict(gm: tuple[str, ...], na: tuple[str, ...]) -> str:
    if "DI" in roles(gm) and "IAD" in roles(na):
        return "IAD makes the initialisation the upper-level variable, so DI cannot learn it too; drop one of them"
    if "DM" in roles(gm) and na not in (("RAD",), ("CG",)):
        return "DM needs na_op RAD or CG, which selects how its multiplier is updated"
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
    related = [c for c in chains if set(given) <= set(c)] or chains
    return "valid chains are " + ", ".join("+".join(chain) for chain in related)
