"""A callback from functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jboat.callbacks.callback import HOOKS, Callback


class LambdaCallback(Callback):
    """Calls a function in a hook.

    Args:
        name: tells this callback from others of its class.
        hooks: one function per hook, called as the hook is: ``on_step_end=lambda trainer, state: ...``.

    Raises:
        TypeError: if a value is no function.
        ValueError: for a name that is no hook.
    """

    def __init__(self, name: str = "", **hooks: Callable[..., Any]) -> None:
        for hook, function in hooks.items():
            if hook not in HOOKS:
                raise ValueError(f"there is no hook {hook!r}; there are {', '.join(HOOKS)}")
            if not callable(function):
                raise TypeError(f"{hook} must be a function, got {function!r}")
            setattr(self, hook, function)
        self._name = name

    @property
    def key(self) -> str:
        """The class and the name."""
        return f"LambdaCallback({self._name})"
