"""Recurrent layers on CUDA without cuDNN's, which cannot be derived twice, and which cuDNN 9 does not have."""

from __future__ import annotations

from types import FunctionType
from typing import Any

from jboat.backend.replacements.dispatch import Function, Place, install
import jittor as jt

_PLACE = (jt.nn.RNNBase, "execute")
_JITTORS = install(*_PLACE, "on CUDA it is made of operations that can be derived again")


def on_cuda() -> dict[Place, Function]:
    """The functions that run inside a block on CUDA, by place."""
    return {_PLACE: without_cudnn(_JITTORS)}


class _JittorWithoutCudnn:
    """What Jittor is without cuDNN."""

    cudnn = None

    def __getattr__(self, name: str) -> Any:
        return getattr(jt, name)


def without_cudnn(execute: Any) -> Function:
    """The code of ``execute``, a function in Python, which finds no cuDNN in ``jt``; nobody else sees a change."""

    def recurrent(*args: Any, **kwargs: Any) -> Any:
        names = {**execute.__globals__, "jt": _JittorWithoutCudnn()}
        same = FunctionType(execute.__code__, names, execute.__name__, execute.__defaults__, execute.__closure__)
        same.__kwdefaults__ = execute.__kwdefaults__
        return same(*args, **kwargs)

    return recurrent
