"""Make the parts of a trainer that a configuration names: models, functions, optimizers, callbacks.

Each function takes the key and what stands under it, and returns the part and a list of what is wrong with it; a part
that something is wrong with is None. Only what :mod:`jboat.trainers.configuration.named_objects` lets pass is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import functools
import inspect
from numbers import Real
from typing import Any

from jboat import callbacks as callback_classes
from jboat import projections
from jboat.callbacks.callback import Callback
from jboat.spelling import nearest
from jboat.trainers.configuration import named_objects
from jboat.trainers.configuration.named_objects import described
import jittor as jt

Made = tuple[Any, list[str]]

BOUND = ("function", "params")


def named(key: str, value: Any, fault: Callable[[Any], str]) -> Made:
    """The object of a name, where it passes a check.

    Args:
        key: the place in the configuration.
        value: the name, ``package.module:name``.
        fault: what is wrong with the object; empty if nothing is.
    """
    if not isinstance(value, str):
        return None, [f"{key!r} must be the name of an object, package.module:name, got {value!r}"]
    try:
        found = named_objects.resolved(value)
    except ValueError as error:
        return None, [f"{key!r}: {error}"]
    wrong = fault(found)
    return (None, [f"{key!r}: {value!r} {wrong}"]) if wrong else (found, [])


def model(key: str, value: Any) -> Made:
    """A model, made anew where the name is that of a class or function."""
    found, wrong = named(key, value, named_objects.model_fault)
    if wrong or isinstance(found, jt.Module):
        return found, wrong
    made, wrong = called(key, found)
    if not wrong and not isinstance(made, jt.Module):
        return None, [f"{key!r}: {value!r} made a {type(made).__name__}, which is no jittor Module"]
    return made, wrong


def function(key: str, value: Any, arguments: int) -> Made:
    """A function by its name, or by a table of its name and the keyword arguments to bind.

    Args:
        key: the place in the configuration.
        value: what stands there.
        arguments: how many arguments it is called with, besides those that are bound.
    """
    if not isinstance(value, Mapping):
        return named(key, value, lambda found: named_objects.function_fault(found, arguments, {}))
    wrong = [f"{key!r} has no key {name!r}.{nearest(name, BOUND)}" for name in value if name not in BOUND]
    bound = value.get("params", {})
    if not isinstance(bound, Mapping):
        wrong.append(f"{key!r}: 'params' must be a table, got {bound!r}")
        bound = {}
    found, more = named(
        f"{key}.function",
        value.get("function"),
        lambda found: named_objects.function_fault(found, arguments, bound),
    )
    if wrong or more:
        return None, wrong + more
    return functools.partial(found, **bound), []


def projection(key: str, value: Any) -> Made:
    """A projection: one of :mod:`jboat.projections` by its name and arguments, or a function of the user's."""
    table = value if isinstance(value, Mapping) else {"function": value}
    name, given = str(table.get("function")), table.get("params", {})
    short = name.removeprefix("jboat.projections:")
    if short not in projections.__all__:
        return function(key, value, 1)
    wrong = [f"{key!r} has no key {name!r}.{nearest(name, BOUND)}" for name in table if name not in BOUND]
    if not isinstance(given, Mapping):
        return None, [*wrong, f"{key!r}: 'params' must be a table, got {given!r}"]
    make = getattr(projections, short)
    wrong += [f"{key!r}: {fault}" for fault in named_objects.argument_faults(make, given)]
    return (None, wrong) if wrong else called(key, make, **given)


def optimizer(key: str, value: Any, trained: Any) -> Made:
    """An optimizer of ``jt.optim`` over a model's parameters; only checked where ``trained`` is no model."""
    if not isinstance(value, Mapping) or "class" not in value:
        return None, [f"{key!r} must be a table with a class, such as {{class = 'SGD', lr = 0.1}}, got {value!r}"]
    cls = getattr(jt.optim, str(value["class"]), None)
    if not (inspect.isclass(cls) and issubclass(cls, jt.optim.Optimizer)):
        classes = [n for n, c in vars(jt.optim).items() if inspect.isclass(c) and issubclass(c, jt.optim.Optimizer)]
        hint = nearest(value["class"], classes)
        return None, [f"{key!r}: no optimizer {value['class']!r} in jt.optim.{hint}"]
    given = {name: argument for name, argument in value.items() if name != "class"}
    wrong = [f"{key!r}: {fault}" for fault in named_objects.argument_faults(cls, given, skip=("params",))]
    wrong += [
        f"{key!r}: {name!r} must be a number, got {argument!r}"
        for name, argument in given.items()
        if not all(isinstance(number, Real) for number in (argument if isinstance(argument, list) else [argument]))
    ]
    if wrong or not isinstance(trained, jt.Module):
        return None, wrong
    return called(key, cls, trained.parameters(), **given)


def callbacks(tables: Any) -> tuple[list[Callback], list[str]]:
    """The callbacks of a list of tables, each with a class and its arguments."""
    if not isinstance(tables, list):
        return [], [f"'callbacks' must be a list of tables, got {tables!r}"]
    made, wrong = [], []
    for number, table in enumerate(tables):
        callback, faults = _callback(f"callbacks[{number}]", table)
        made += [] if faults else [callback]
        wrong += faults
    return made, wrong


def _callback(where: str, table: Any) -> Made:
    if not isinstance(table, Mapping) or not isinstance(table.get("class"), str):
        return None, [f"{where!r} must be a table with a class, got {table!r}"]
    arguments = dict(table)
    name = arguments.pop("class")
    if ":" in name:
        cls, wrong = named(where, name, lambda found: named_objects.class_fault(found, Callback))
    else:
        known = [n for n in callback_classes.__all__ if inspect.isclass(getattr(callback_classes, n))]
        cls = getattr(callback_classes, name) if name in known else None
        wrong = [] if cls else [f"{where!r}: no callback {name!r}.{nearest(name, known)}"]
    wrong = wrong or [f"{where!r}: {fault}" for fault in named_objects.argument_faults(cls, arguments)]
    return (None, wrong) if wrong else called(where, cls, **arguments)


def called(where: str, maker: Callable[..., Any], *args: Any, **kwargs: Any) -> Made:
    """What a class or function makes, or what keeps it from it, even if it would end the program."""
    place = f"{where!r}: " if where else ""
    try:
        return maker(*args, **kwargs), []
    except KeyboardInterrupt:
        raise
    except (TypeError, ValueError) as error:
        return None, [f"{place}{error}"]
    except BaseException as error:
        return None, [f"{place}{described(error)}"]
