"""Make an operator's options, and check the numbers among them by the types of their dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, fields
import math
from numbers import Integral, Real
from typing import Any


def checked(section: str, options: type, given: Mapping[str, Any]) -> Any:
    """The options of a section.

    The dataclass itself checks ranges, and whether an integer is one. That a number is a number is checked before, so
    that no range is compared with an array, and that it is finite after.

    Args:
        section: its name in ``solver_config``.
        options: the dataclass.
        given: what the section holds, numpy's numbers as Python's.

    Raises:
        TypeError: for what is no number where one belongs.
        ValueError: for a value out of range; for NaN; and for an infinite number, unless None or an infinite default
            stands for no bound.
    """
    numbers = {
        f"solver_config[{section!r}][{field.name!r}]": (field, given[field.name])
        for field in fields(options)
        if field.name in given and not _is_another(field, given[field.name])
    }
    for name, (field, value) in numbers.items():
        if "float" in _kinds(field) or not isinstance(value, (str, float, int, type(None))):
            _check_kind(name, field, value)
    try:
        made = options(**given)
    except TypeError:
        for name, (field, value) in numbers.items():
            _check_kind(name, field, value)
        raise
    for name, (field, value) in numbers.items():
        _check_kind(name, field, value)
        _check_size(name, field, value)
    return made


def _check_kind(name: str, field: Field[Any], value: Any) -> None:
    is_float = "float" in _kinds(field)
    if isinstance(value, bool) or not isinstance(value, Real if is_float else Integral):
        words = "a number" if is_float or isinstance(value, bool) else "an integer"
        raise TypeError(f"{name} must be {words}, got {value!r}")


def _check_size(name: str, field: Field[Any], value: Any) -> None:
    if "float" not in _kinds(field):
        return
    try:
        size = float(value)
    except OverflowError as error:
        raise ValueError(f"{name} must be finite, and is too large for a float") from error
    unbounded = "None" in _kinds(field) or (isinstance(field.default, float) and math.isinf(field.default))
    if math.isnan(size) or (math.isinf(size) and not unbounded):
        raise ValueError(f"{name} must be {'a number' if unbounded else 'finite'}, got {value}")


def _kinds(field: Field[Any]) -> set[str]:
    """The names of the types that an option may have."""
    written = field.type.__name__ if isinstance(field.type, type) else str(field.type)
    return {part.strip() for part in written.split("|")}


def _is_another(field: Field[Any], value: Any) -> bool:
    """Whether an option is no number, or this value of it is one of the other types that it may have."""
    kinds = _kinds(field)
    if not kinds & {"int", "float"} or not kinds <= {"int", "float", "bool", "str", "None"}:
        return True
    other = {"str": str, "bool": bool, "None": type(None)}
    return any(isinstance(value, kind) for name, kind in other.items() if name in kinds)
