"""Functions that tell the nearest spelling of an argument that they do not have."""

from __future__ import annotations

from collections.abc import Callable
import functools
import inspect
from typing import ParamSpec, TypeVar

from jboat.spelling import nearest

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def spelled_keywords(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """The function, which raises a TypeError with the nearest valid spelling where a keyword is none of its own.

    One that takes any keyword is given back as it is.
    """
    parameters = inspect.signature(function).parameters
    valid = list(parameters)[1:]
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return function

    @functools.wraps(function)
    def checked(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        for name in kwargs:
            if name not in valid:
                raise TypeError(
                    f"{function.__qualname__}() got an unexpected keyword argument {name!r}.{nearest(name, valid)}"
                )
        return function(*args, **kwargs)

    return checked
