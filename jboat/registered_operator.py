"""What is known of a registered operator, and its options as a ``solver_config`` gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal, NamedTuple

from jboat import option_numbers
from jboat.capabilities import Capabilities, LowerCapabilities, UpperCapabilities
from jboat.plain_numbers import plain
from jboat.spelling import nearest

Kind = Literal["gm", "na", "fo", "sl"]


class Operator(NamedTuple):
    """A registered operator.

    Attributes:
        name: the class's name.
        kind: ``"gm"``, ``"na"``, ``"fo"`` or ``"sl"``.
        cls: the class.
        options: the dataclass that holds its section of ``solver_config``; None where it has no section of its own.
        cost: gradients, products and memory, in words.
        role: the operator of the grammar whose place it takes; its own name where it is that operator.
        lower: what it does, if it is a lower-level operator; else nothing.
        upper: what it does, if it is a hypergradient operator; else nothing.
        sections: the sections of ``solver_config`` that may hold its options, the first that is there counts: its own,
            or that of the operator whose place it takes.
        section_options: the dataclass that holds them; None where it has no options at all.
    """

    name: str
    kind: Kind
    cls: type
    options: type | None
    cost: str
    role: str
    lower: LowerCapabilities = LowerCapabilities()
    upper: UpperCapabilities = UpperCapabilities()
    sections: tuple[str, ...] = ()
    section_options: type | None = None

    def section_in(self, solver_config: Mapping[str, Any]) -> str | None:
        """The section that holds its options; None where it has none."""
        return next((name for name in self.sections if name in solver_config), next(iter(self.sections), None))

    def options_in(self, solver_config: Mapping[str, Any]) -> Any:
        """Its options: defaults, overridden by its section; None where it has none.

        Raises:
            TypeError: if the section is not a mapping, or something else stands where a number belongs.
            ValueError: for an unknown key or a value out of range.
        """
        name = self.section_in(solver_config)
        if name is None or self.section_options is None:
            return None
        section = solver_config.get(name) or {}
        if not isinstance(section, Mapping):
            raise TypeError(f"solver_config[{name!r}] must be a dict, got {type(section).__name__}")
        valid = [field.name for field in fields(self.section_options)]
        for key in section:
            if key not in valid and name != self.name:
                raise ValueError(
                    f"solver_config[{name!r}] holds the options of {self.name}, too, which has no {key!r}; give "
                    f"{self.name} a section of its own, with {', '.join(valid)}"
                )
            if key not in valid:
                raise ValueError(
                    f"solver_config[{name!r}] has no key {key!r}; it has {', '.join(valid)}.{nearest(key, valid)}"
                )
        return option_numbers.checked(name, self.section_options, {key: plain(value) for key, value in section.items()})

    @property
    def capabilities(self) -> Capabilities:
        """What it does, in the terms of its kind."""
        return self.lower if self.kind == "gm" else self.upper

    def check_capabilities(self) -> None:
        """See that they are of the right kind, and can read the operator's default options.

        Raises:
            TypeError: if they are of another kind.
            ValueError: if one cannot read the options.
        """
        wanted = LowerCapabilities if self.kind == "gm" else UpperCapabilities
        if not isinstance(self.capabilities, wanted):
            raise TypeError(
                f"register_operator of {self.name}: the attribute capabilities must be {wanted.__name__}, got "
                f"{self.capabilities!r}"
            )
        defaults = None if self.section_options is None else self.section_options()
        readers: dict[str, tuple[Any, ...]] = {"weight": (0,), "next_start": ([], [])}
        for name in (
            "weight",
            "next_start",
            "proximal",
            "tracked_from",
            "rebuilt_at_once",
            "checkpoints",
            "sees_lower_step",
            "keeps",
        ):
            read = getattr(self.capabilities, name, None)
            if read is None:
                continue
            try:
                read(defaults, *readers.get(name, ()))
            except Exception as error:
                raise ValueError(
                    f"register_operator of {self.name}: its capability {name} cannot read its options ({error}); give "
                    f"the class capabilities of its own, whose {name} can, or options that have what this one reads"
                ) from error

    def misfit(self, section: Any) -> str:
        """Which value of its own section is no string where one belongs, in a sentence; empty where none is."""
        for field in fields(self.options) if self.options is not None and isinstance(section, Mapping) else ():
            if str(field.type) in ("str", "str | None") and not isinstance(section.get(field.name, ""), str):
                return f"solver_config[{self.name!r}][{field.name!r}] must be a string, got {section[field.name]!r}"
        return ""
