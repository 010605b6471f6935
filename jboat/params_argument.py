"""The argument ``params`` of BOAT's objectives: who takes it, and how any module can be called with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import contextlib
import functools
import inspect
from typing import Any, NamedTuple
import weakref

from jboat import functional
from jboat.backend.replacements import dispatch
import jittor as jt


class Signature(NamedTuple):
    """Whether a function has an argument ``params``, and whether it has ``**kwargs``."""

    named: bool
    collected: bool


_known: weakref.WeakKeyDictionary[Any, Signature] = weakref.WeakKeyDictionary()


def signature_of(function: Callable[..., Any]) -> Signature:
    """How a function takes ``params``."""
    key = getattr(function, "__func__", function)  # a method is made anew whenever it is asked for
    try:
        return _known[key]
    except (KeyError, TypeError):  # TypeError: it has no hash, or cannot be referred to weakly
        found = _read(function)
    with contextlib.suppress(TypeError):
        _known[key] = found
    return found


def _read(function: Callable[..., Any]) -> Signature:
    if isinstance(function, functools.partial) and "params" in function.keywords:
        return Signature(False, False)  # its user has said what params is
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return Signature(False, False)
    return Signature("params" in parameters, any(p.kind is p.VAR_KEYWORD for p in parameters.values()))


@contextlib.contextmanager
def accepted(module: jt.Module, variables: Sequence[jt.Var]) -> Iterator[None]:
    """Let the module be called with ``params`` inside the block, unless it has an argument of that name itself.

    The module is left as it is: what is asked for ``params`` is the call of any module, in this context. A copy of the
    module that is made meanwhile can be called with them too, and is then run with them.

    Args:
        module: the module.
        variables: its Vars that ``params`` stands for. Where ``params`` are these very Vars, they stay as they are.
    """
    if signature_of(module.execute).named:
        yield
        return

    def taking_params(call: Callable[..., Any]) -> Callable[..., Any]:
        def call_with_params(called: jt.Module, *args: Any, **kwargs: Any) -> Any:
            own = _corresponding(called, module, variables) if "params" in kwargs else None
            if own is None:
                return call(called, *args, **kwargs)
            values = kwargs.pop("params")
            if values is None:
                return call(called, *args, **kwargs)
            values = list(values)
            if len(values) != len(own):
                raise ValueError(f"params must hold {len(own)} Vars, one a variable, got {len(values)}")
            if all(value is variable for value, variable in zip(values, own, strict=True)):
                return call(called, *args, **kwargs)
            return functional.called_with(values, own, call, called, *args, **kwargs)

        return call_with_params

    places = [(jt.Module, name) for name in ("__call__", "__hooked_call__")]  # not of the module, which starts Jittor
    with dispatch.replaced({place: taking_params(dispatch.current(*place)) for place in places}):
        yield


def _corresponding(called: jt.Module, module: jt.Module, variables: Sequence[jt.Var]) -> Sequence[jt.Var] | None:
    """The Vars of a module that is called that correspond to those of ``module``; None where it is no copy of that."""
    if called is module:
        return variables
    if type(called) is not type(module):
        return None
    places = {id(v): i for i, v in enumerate(module.parameters())}
    copied = called.parameters()
    if len(copied) != len(places) or not all(id(v) in places for v in variables):
        return None
    return [copied[places[id(v)]] for v in variables]
