"""Which functions of Jittor's compute with :class:`~jboat.backend.stacked.array.Stacked` arrays, inside a block."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
from typing import Any

from jboat.backend.replacements import by_device, dispatch  # by_device before: the first to install counts
from jboat.backend.replacements.dispatch import Function, Place, install
from jboat.backend.stacked import layers
from jboat.backend.stacked.array import (
    BINARY,
    COMPARISONS,
    ENTRYWISE,
    OPERATORS,
    REDUCTIONS,
    TYPES,
    NotStackedError,
    Stacked,
    held,
    stacked,
)
import jittor as jt
from jittor import nn
from jittor import pool as jittor_pool

_WHY = "while an objective runs for several tasks at once, it computes for each of them; it is in place only then"
_METHODS = (
    *REDUCTIONS, *ENTRYWISE, *TYPES, *BINARY, *(f"__{name}__" for name in OPERATORS),
    *(f"__r{name}__" for name in OPERATORS if name not in COMPARISONS), "__neg__",
    "matmul", "__matmul__", "reshape", "view", "flatten", "transpose", "permute", "unsqueeze", "squeeze", "expand",
    "broadcast", "clamp", "cast", "softmax", "log_softmax",
)  # fmt: skip
_ROOMS = (jt.Var, jt, nn)
_BY_ROWS = (
    (jittor_pool.Pool, "execute"),
    (jittor_pool.AdaptiveAvgPool2d, "execute"),
    (jittor_pool.AdaptiveMaxPool2d, "execute"),
)
_ENTRYWISE_LAYERS = tuple(
    (cls, "execute") for cls in (nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.ELU, nn.Tanh, nn.Sigmoid)
)
_ENTRYWISE_FUNCTIONS = (
    *((nn, name) for name in ("relu", "leaky_relu", "relu6", "gelu", "silu", "elu")),
    *((room, "safe_clip") for room in (jt.Var, jt)),  # which would make numbers of NaN
)


def _made_of(rule: Callable[..., Any]) -> Callable[[Function], Function]:
    """A function that runs ``rule``, which is handed the other one first, where an argument differs between tasks."""

    def with_other(other: Function) -> Function:
        def run(*args: Any, **kwargs: Any) -> Any:
            if any(stacked(a) is not None for a in (*args, *kwargs.values())):
                return rule(other, *args, **kwargs)
            return other(*args, **kwargs)

        return run

    return with_other


def _method(name: str) -> Callable[[Function], Function]:
    computed = getattr(Stacked, name)

    def rule(other: Function, first: Any, *args: Any, **kwargs: Any) -> Any:
        own = stacked(first)
        return computed(first if own is None else own, *args, **kwargs)

    return _made_of(rule)


def _by_rows(other: Function, layer: Any, x: Stacked) -> Stacked:
    return x.unfolded(other(layer, x.folded()))


def _entrywise_layer(other: Function, layer: Any, x: Any) -> Stacked:
    own = stacked(x)
    assert own is not None
    return Stacked(other(layer, own.value))


def _entrywise_function(other: Function, x: Any, *args: Any, **kwargs: Any) -> Stacked:
    own = stacked(x)
    if own is None:
        raise NotStackedError("a number of an activation that differs from task to task")
    return Stacked(other(own.value, *args, **kwargs))


def _softmax_layer(other: Function, layer: Any, x: Any, *args: Any) -> Stacked:
    own = stacked(x)
    assert own is not None
    return own.softmax(*args, *layer.args, **layer.kw)


def _dropout_layer(other: Function, layer: Any, x: Any) -> Any:
    return other(layer, x) if layer.is_train and layer.p > 0 else x


def _one_hot(other: Function, x: Any, num_classes: int = -1) -> Stacked:
    own = stacked(x)
    if own is None or num_classes == -1:
        raise NotStackedError("one_hot without num_classes, which may differ from task to task")
    return Stacked(other(own.value, num_classes))


def _indexed(other: Function, array: Any, index: Any) -> Stacked:
    own, places = stacked(array), stacked(index)
    if own is None and places is not None:
        return Stacked(other(array, places.value))
    if own is None or places is not None:
        raise NotStackedError("indexing by numbers that differ from task to task")
    return own[index]


def _linear_layer(other: Function) -> Function:
    function = dispatch.current(nn, "linear")

    def run(layer: nn.Linear, x: Any) -> Any:
        if any(stacked(v) is not None for v in (x, layer.weight, layer.bias)):
            return layers.linear(function, x, layer.weight, layer.bias)
        return other(layer, x)

    return run


def _convolution_layer(other: Function) -> Function:
    function = dispatch.current(nn, "conv2d")

    def run(layer: nn.Conv, x: Any) -> Any:
        if any(stacked(v) is not None for v in (x, layer.weight, layer.bias)):
            sizes = layer.stride, layer.padding, layer.dilation, layer.groups
            return layers.conv2d(function, x, layer.weight, layer.bias, *sizes)
        return other(layer, x)

    return run


def _random(other: Function) -> Function:
    def run(*args: Any, **kwargs: Any) -> Any:
        if held.get():
            raise NotStackedError("drawing random numbers")
        return other(*args, **kwargs)

    return run


def _rules() -> dict[Place, Callable[[Function], Function]]:
    found: dict[Place, Callable[[Function], Function]] = {}
    for name in _METHODS:
        for room in _ROOMS:
            if hasattr(room, name) and (room is jt.Var or not (name in TYPES or name.startswith("__"))):
                found[room, name] = _method(name)
    found |= dict.fromkeys(_BY_ROWS, _made_of(_by_rows))
    found |= dict.fromkeys(_ENTRYWISE_LAYERS, _made_of(_entrywise_layer))
    found |= dict.fromkeys(_ENTRYWISE_FUNCTIONS, _made_of(_entrywise_function))
    for name in ("conv2d", "conv"):
        found[nn, name] = _made_of(layers.conv2d)
    for name in ("linear", "cross_entropy_loss", "mse_loss"):
        found[nn, name] = _made_of(getattr(layers, name))
    found[nn, "matmul_transpose"] = _made_of(layers.linear)
    return found | {
        (jt.Var, "__getitem__"): _made_of(_indexed),
        (nn.Softmax, "execute"): _made_of(_softmax_layer),
        **{(cls, "execute"): _made_of(_dropout_layer) for cls in (nn.Dropout, nn.Dropout2d, nn.DropPath)},
        (nn, "one_hot"): _made_of(_one_hot),
        (nn.Linear, "execute"): _linear_layer,
        (nn.Conv, "execute"): _convolution_layer,
        by_device.random_numbers.PLACE: _random,
    }


_RULES = _rules()
for _place in _RULES:
    install(*_place, _WHY, lasting=False)


def stacking() -> contextlib.AbstractContextManager[None]:
    """Let Jittor's functions compute with stacked arrays inside the block, and with others as they would outside."""
    return dispatch.replaced({place: rule(dispatch.current(*place)) for place, rule in _RULES.items()})
