"""Objects that a configuration names as ``package.module:name``, and of what kind each must be.

A name is imported, which runs its module. Nothing else is called here, and nothing should be called that has not passed
one of these checks: a class must be one of the kind that its place wants, and a function must be somebody's own, since
everything in Python's standard library that could be named there does something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import contextlib
import functools
import importlib
import inspect
import os
import sys
from typing import Any

from jboat.spelling import nearest
from jboat.trainers.data.loaders import check_loader
import jittor as jt


@contextlib.contextmanager
def working_directory_importable() -> Iterator[None]:
    """Look for modules in the working directory too, inside the block."""
    try:
        here = os.getcwd()
    except FileNotFoundError:
        here = ""
    added = bool(here) and "" not in sys.path and here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        yield
    finally:
        if added and here in sys.path:
            sys.path.remove(here)


def resolved(reference: str) -> Any:
    """The object called ``package.module:name``; modules are looked for in the working directory too.

    Raises:
        ValueError: if there is no such thing, or its module cannot be imported, whatever the reason.
    """
    module_name, _, name = reference.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), *name.split("."))):
        raise ValueError(f"{reference!r} must have the form package.module:name")
    try:
        with working_directory_importable():
            found: Any = importlib.import_module(module_name)
    except KeyboardInterrupt:
        raise
    except ImportError as error:
        raise ValueError(f"{reference!r}: cannot import {module_name}: {error}") from error
    except BaseException as error:
        raise ValueError(f"{reference!r}: importing {module_name} failed: {described(error)}") from error
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            hint = nearest(part, dir(found))
            raise ValueError(f"{reference!r}: {module_name} has no {part!r}.{hint}") from None
        except Exception as error:
            raise ValueError(f"{reference!r}: asking for {part!r} failed: {described(error)}") from error
    return found


def described(error: BaseException) -> str:
    """An exception in words."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def model_fault(value: Any) -> str:
    """What keeps an object from being a model, or a class or function that makes one; empty if nothing does."""
    if isinstance(value, jt.Module):
        return ""
    wanted = "must be a jittor Module, a class of them, or a function of yours that makes one"
    if inspect.isclass(value):
        return _needs_arguments(value) if issubclass(value, jt.Module) else f"{wanted}, got {_named(value)}"
    if not _is_own_function(value):
        return f"{wanted}, got {_named(value)}"
    made = getattr(value, "__annotations__", {}).get("return")
    if inspect.isclass(made) and not issubclass(made, jt.Module):
        return f"{wanted}, got {_named(value)}, which makes a {made.__name__}"
    return _needs_arguments(value)


def loader_fault(name: str, value: Any) -> str:
    """What keeps an object from being a loader, or a class or function that makes one; empty if nothing does."""
    if inspect.isclass(value):
        if not hasattr(value, "__iter__") or _is_pythons(value):
            return f"must be a loader, a class of them, or a function of yours that makes one, got {_named(value)}"
        return _needs_arguments(value)
    try:
        check_loader(value, name)
    except (TypeError, ValueError) as error:
        return str(error)
    if not callable(value) or hasattr(type(value), "__iter__"):
        return ""
    if not _is_own_function(value):
        return f"must be a loader, a class of them, or a function of yours that makes one, got {_named(value)}"
    return _needs_arguments(value)


def function_fault(value: Any, arguments: int, bound: Mapping[str, Any]) -> str:
    """What keeps an object from being a function of so many arguments; empty if nothing does.

    Args:
        value: the object.
        arguments: how many arguments it will be called with, apart from ``params``, which it may have besides.
        bound: keyword arguments that are bound to it before.
    """
    if inspect.isclass(value) or not _is_own_function(value):
        return f"must be a function of yours, got {_named(value)}"
    try:
        signature = inspect.signature(functools.partial(value, **bound))
        extra = {"params": None} if "params" in signature.parameters else {}
        signature.bind(*range(arguments), **extra)
    except (TypeError, ValueError) as error:
        return f"cannot be called with {arguments} arguments: {error}"
    return ""


def class_fault(value: Any, base: type) -> str:
    """What keeps an object from being a class derived from ``base``; empty if nothing does."""
    if inspect.isclass(value) and issubclass(value, base):
        return ""
    return f"must be a class derived from {base.__name__}, got {_named(value)}"


def argument_faults(function: Callable[..., Any], given: Mapping[str, Any], skip: tuple[str, ...] = ()) -> list[str]:
    """What is wrong with the names of keyword arguments, a sentence each.

    Args:
        function: a class or function.
        given: the arguments by name.
        skip: positional parameters that are given otherwise.
    """
    name = getattr(function, "__name__", type(function).__name__)
    parameters = {n: p for n, p in inspect.signature(function).parameters.items() if n not in skip}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = {n: p for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    unknown = [] if takes_any else [n for n in given if n not in named]
    missing = [n for n, p in named.items() if p.default is p.empty and n not in given]
    return [f"{name} has no argument {n!r}.{nearest(n, named)}" for n in unknown] + [
        f"{name} needs {n!r}" for n in missing
    ]


def _is_own_function(value: Any) -> bool:
    """Whether something can be called, and is written in Python outside the standard library."""
    while isinstance(value, functools.partial):
        value = value.func
    value = inspect.unwrap(value)
    is_function = inspect.isfunction(value) or inspect.ismethod(value)
    has_call = callable(value) and inspect.isfunction(getattr(type(value), "__call__", None))  # noqa: B004
    return (is_function or has_call) and not _is_pythons(value)


def _is_pythons(value: Any) -> bool:
    module = getattr(value, "__module__", None) or ""
    return module.partition(".")[0] in {"builtins", *sys.stdlib_module_names}


def _needs_arguments(function: Callable[..., Any]) -> str:
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError) as error:
        return f"must be callable without arguments: {error}"
    return ""


def _named(value: Any) -> str:
    """An object in words that name it."""
    name = getattr(value, "__qualname__", None)
    if not isinstance(name, str):
        return f"a {type(value).__name__}"
    return f"{getattr(value, '__module__', None)}.{name}"
