"""The argument ``params`` of BOAT's objectives: who takes it, and how any module can be called with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import contextlib
import functools
import inspect
import threading
from typing import Any, NamedTuple
import weakref

from jboat import functional
import jittor as jt


class Signature(NamedTuple):
    """Whether a function has an argument ``params``, and whether it has ``**kwargs``."""

    named: bool
    collected: bool


class _Block(NamedTuple):
    """Where :func:`accepted` is active: in which thread, and for which of the module's Vars."""

    thread: int
    variables: Sequence[jt.Var]


_known: weakref.WeakKeyDictionary[Any, Signature] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


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


class _Execute:
    """A module's ``execute`` that takes ``params`` besides what it takes anyway.

    One lies in a module as long as there are blocks, whichever thread's. A copy of the module that is made meanwhile
    runs the copy, since this is copied with it.

    Args:
        module: the module.
    """

    def __init__(self, module: jt.Module) -> None:
        self._module = module
        self.own: Callable[..., Any] | None = vars(module).get("execute")
        self.blocks: list[_Block] = []

    def __call__(self, *args: Any, params: Sequence[jt.Var] | None = None, **kwargs: Any) -> Any:
        execute = self.own or functools.partial(type(self._module).execute, self._module)
        if params is None:
            return execute(*args, **kwargs)
        values, variables = list(params), self._variables()
        if len(values) != len(variables):
            raise ValueError(f"params must hold {len(variables)} Vars, one a variable, got {len(values)}")
        if all(value is variable for value, variable in zip(values, variables, strict=True)):
            return execute(*args, **kwargs)
        return functional.called_with(values, variables, execute, *args, **kwargs)

    def _variables(self) -> Sequence[jt.Var]:
        here = threading.get_ident()
        blocks = [block for block in self.blocks if block.thread == here] or self.blocks
        return blocks[-1].variables


@contextlib.contextmanager
def accepted(module: jt.Module, variables: Sequence[jt.Var]) -> Iterator[None]:
    """Let the module take ``params`` inside the block, unless it has an argument of that name itself.

    Blocks may be nested, and those of several threads may overlap; after the last one nothing of them is left.

    Args:
        module: the module.
        variables: its Vars that ``params`` stands for. Where ``params`` are these very Vars, they stay as they are.
    """
    there = vars(module).get("execute")
    own = there.own if isinstance(there, _Execute) else there
    if signature_of(own or type(module).execute).named:
        yield
        return
    block = _Block(threading.get_ident(), variables)
    with _lock:
        there = vars(module).get("execute")
        execute = there if isinstance(there, _Execute) else _Execute(module)
        execute.blocks.append(block)
        vars(module)["execute"] = execute
    try:
        yield
    finally:
        with _lock:
            execute.blocks[:] = [other for other in execute.blocks if other is not block]
            if not execute.blocks and vars(module).get("execute") is execute:
                if execute.own is None:
                    del vars(module)["execute"]
                else:
                    vars(module)["execute"] = execute.own
