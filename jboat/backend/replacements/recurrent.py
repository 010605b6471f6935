"""Recurrent layers on CUDA without cuDNN's, which cannot be derived twice, and which cuDNN 9 does not have."""

from __future__ import annotations

import threading
from typing import Any

from jboat.backend.replacements.dispatch import Function, Place, install
import jittor as jt

_PLACE = (jt.nn.RNNBase, "execute")
_JITTORS = install(*_PLACE, "on CUDA it is made of operations that can be derived again")
_cudnn_lock = threading.RLock()


def on_cuda() -> dict[Place, Function]:
    """The functions that run inside a block on CUDA, by place."""
    return {_PLACE: without_cudnn(_JITTORS)}


def without_cudnn(execute: Function) -> Function:
    """``execute`` as it is where Jittor has no cuDNN."""

    def recurrent(*args: Any, **kwargs: Any) -> Any:
        with _cudnn_lock:
            cudnn, jt.cudnn = jt.cudnn, None
            try:
                return execute(*args, **kwargs)
            finally:
                jt.cudnn = cudnn

    return recurrent
