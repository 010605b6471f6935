"""The bounds, radii, totals and thresholds of projections: numbers, or functions whose Vars are looked at later."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
import math
from typing import Any, NoReturn, TypeAlias

from jboat.plain_numbers import plain
import jittor as jt
import numpy as np

Level: TypeAlias = "float | Callable[[], float | jt.Var]"


@dataclass(frozen=True)
class Range:
    """The numbers that a level may be.

    Attributes:
        least: the least of them.
        above: whether that itself is none of them.
        finite: whether infinity is none of them.
    """

    least: float = -math.inf
    above: bool = False
    finite: bool = False

    def has(self, number: float) -> bool:
        """Whether a number is one of them; NaN never is."""
        high_enough = number > self.least if self.above else number >= self.least
        return high_enough and not (self.finite and math.isinf(number))

    def __str__(self) -> str:
        if self.least == -math.inf:
            return "a number"
        return f"{'above' if self.above else 'at least'} {self.least:g}{' and finite' if self.finite else ''}"


class Levels:
    """The levels of one projection.

    Args:
        projection: what the projection is called.
        given: by name, numbers or functions without arguments that give numbers or Vars.
        ranges: by name, what they may be.

    Raises:
        TypeError: if one is no number and no function.
        ValueError: if a number is out of range, or ``low`` is above ``high``.
    """

    def __init__(self, projection: str, given: Mapping[str, Level], ranges: Mapping[str, Range]) -> None:
        self._projection = projection
        self._given: dict[str, Any] = {name: plain(value) for name, value in given.items()}
        self._ranges = ranges
        self._require_numbers({name: value for name, value in self._given.items() if not callable(value)})

    def in_force(self, shapes: Sequence[Sequence[int]] = ((1,),)) -> dict[str, float | jt.Var]:
        """Numbers now, or Vars, at which a :class:`Watch` looks when they have been computed.

        Args:
            shapes: those of the variables that each level is for; by default it is one number for all together.

        Raises:
            TypeError: if a function gives something else.
            ValueError: if it gives a number out of range, or numbers of a shape that is for none of the variables.
        """
        found = self._found()
        for name, value in found.items():
            if isinstance(value, jt.Var):
                self._require_shape(name, list(value.shape), shapes)
        self._require_numbers({name: value for name, value in found.items() if not isinstance(value, jt.Var)})
        watch = _watch.get()
        if watch is not None and any(isinstance(value, jt.Var) for value in found.values()):
            watch.note(self)
        return found

    def _require_shape(self, name: str, given: list[int], shapes: Sequence[Sequence[int]]) -> None:
        for shape in shapes:
            try:
                fits = list(np.broadcast_shapes(tuple(given), tuple(shape))) == list(shape)
            except ValueError:
                fits = False
            if not fits:
                one = "one number" if list(shape) == [1] else f"one number, or numbers that fit the shape {list(shape)}"
                self._refuse(ValueError, f"{name} must be {one}, got the shape {given}")

    def apart(self) -> dict[str, float | jt.Var]:
        """The same without the graphs that :meth:`in_force` makes a part of."""
        found = self._found()
        return {name: v.detach() if isinstance(v, jt.Var) else v for name, v in found.items()}

    def _found(self) -> dict[str, Any]:
        return {name: plain(value()) if callable(value) else value for name, value in self._given.items()}

    def _require_numbers(self, found: Mapping[str, Any]) -> None:
        for name, value in found.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                hint = "; give a function of it, such as lambda: model.bound" if isinstance(value, jt.Var) else ""
                self._refuse(TypeError, f"{name} must be a number or a function without arguments, got {value!r}{hint}")
        self.require(found)

    def require(self, found: Mapping[str, float | np.ndarray]) -> None:
        """Require numbers, or arrays of them, in range.

        Raises:
            ValueError: if one is out of range.
            ArithmeticError: while a :class:`Watch` is kept, if one is not finite and must be.
        """
        for name, value in found.items():
            for number in (float(np.min(value)), float(np.max(value))):  # both NaN where there is one
                if not self._ranges[name].has(number):
                    unheard_of = _watch.get() is not None and not math.isfinite(number)
                    what = f"{name} must be {self._ranges[name]}, got {number:g}"
                    self._refuse(ArithmeticError if unheard_of else ValueError, what)
        if {"low", "high"} <= found.keys():
            low, high = np.broadcast_arrays(found["low"], found["high"])
            above = low > high
            if above.any():
                self._refuse(ValueError, f"low must be at most high, got {low[above][0]:g} and {high[above][0]:g}")

    def _refuse(self, error: type[Exception], what: str) -> NoReturn:
        watch = _watch.get()
        if watch is None:
            raise error(f"{self._projection}: {what}")
        advice = "" if error is TypeError else ". A function such as exp or sigmoid of a parameter stays in range"
        raise error(f"{watch.argument} ({self._projection}): {what}, at outer step {watch.step}{advice}")


class Watch:
    """What functions give as levels in a block of one outer step.

    Args:
        argument: whose projections these are, such as ``"ll_projection"``.
        step: the outer step, counted from 1.
    """

    def __init__(self, argument: str, step: int) -> None:
        self.argument, self.step = argument, step
        self._noted: dict[int, tuple[Levels, dict[str, float | jt.Var]]] = {}

    def note(self, levels: Levels) -> None:
        """Hold the levels' Vars until the step's end; they are noted where they are used first in the step."""
        if id(levels) not in self._noted:
            self._noted[id(levels)] = levels, levels.apart()

    def look(self) -> None:
        """Require all that was noted to be in range; see :meth:`Levels.require`."""
        for levels, found in self._noted.values():
            levels.require({name: v.numpy() if isinstance(v, jt.Var) else v for name, v in found.items()})


_watch: ContextVar[Watch | None] = ContextVar("who looks at the levels of projections", default=None)


@contextmanager
def watched(argument: str, step: int) -> Iterator[None]:
    """Hold what functions give as levels inside the block to their ranges, in its end, when they have been computed.

    Args:
        argument: whose projections these are, such as ``"ll_projection"``.
        step: the outer step, counted from 1, for the error.

    Raises:
        ArithmeticError: if a level is NaN, or infinite where it must be finite.
        ValueError: if it is out of range.
    """
    watch = Watch(argument, step)
    token = _watch.set(watch)
    try:
        yield
        watch.look()
    finally:
        _watch.reset(token)
