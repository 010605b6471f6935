"""Operations that models of jboat's users are made of, each on a few numbers that stay away from kinks.

The most used come first, since a tour of them may be stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jboat  # noqa: F401  (starts Jittor)
from jboat.nn import max_pool2d
import jittor as jt
from jittor import nn
import numpy as np

Function = Callable[..., Any]


class Probe(NamedTuple):
    """One operation.

    Attributes:
        function: makes a Var, or a list of them, of Vars.
        arrays: what these hold; all are differentiated by.
        derivatives: whether there are derivatives to look at.
        own: what Jittor itself has in its place, where that is another function, or the same one known to differ on a
            GPU outside the trainer's block.
    """

    function: Function
    arrays: Sequence[np.ndarray]
    derivatives: bool = True
    own: Function | None = None


def _numbers(*shape: int) -> np.ndarray:
    """Numbers of both signs, none near zero."""
    rng = np.random.default_rng(list(shape))
    return (rng.choice([-1.0, 1.0], shape) * rng.uniform(0.2, 1.5, shape)).astype(np.float32)


ROWS = _numbers(6, 8)
FACTOR = _numbers(8, 5)
SEQUENCES = _numbers(3, 4, 8)
IMAGES = _numbers(4, 3, 8, 8)
FILTERS = _numbers(5, 3, 3, 3)
VOLUMES, VOLUME_FILTERS = _numbers(2, 2, 4, 4, 4), _numbers(3, 2, 3, 3, 3)
LABELS = np.array([3, 0, 7, 7, 2, 5], np.int32)
PLACES = np.array([0, 2, 2], np.int32)


def _values(function: Function, *arrays: np.ndarray) -> Probe:
    return Probe(function, arrays, derivatives=False)


def _of_rows(function: Function) -> Probe:
    return Probe(function, (ROWS,))


def _trainable(layer: jt.Module) -> list[tuple[jt.Module, str]]:
    """Where the parameters of a layer are kept: their modules and names."""
    return [
        (module, name)
        for module in layer.modules()
        for name, value in vars(module).items()
        if isinstance(value, jt.Var) and not value.is_stop_grad()
    ]


def _layer(make: Callable[[], jt.Module], *inputs: np.ndarray, call: Function = lambda layer, *x: layer(*x)) -> Probe:
    """A layer with given weights, by which it is differentiated too."""
    model = make()
    shapes = [getattr(module, name).shape for module, name in _trainable(model)]

    def function(*variables: jt.Var) -> jt.Var:
        layer = make()
        for (module, name), weight in zip(_trainable(layer), variables[len(inputs) :], strict=True):
            setattr(module, name, weight)
        return call(layer, *variables[: len(inputs)])

    return Probe(function, (*inputs, *(0.5 * _numbers(*shape) for shape in shapes)))


def _optimizer(make: Function) -> Probe:
    def two_steps(x: jt.Var) -> list[jt.Var]:
        optimizer = make([x])
        for _ in range(2):
            optimizer.step(((x - 1.0) ** 2).sum())
        return [x]

    return _values(two_steps, ROWS)


def _set_rows(x: jt.Var) -> jt.Var:
    out = x * 1.0
    out[1:3] = x[3:5] * 2.0
    return out


def _near(value: jt.Var, expected: float, within: float) -> jt.Var:
    return ((value - expected).abs() < within).int32()


def _random() -> list[jt.Var]:
    uniform, normal = jt.rand(1000, 100), jt.randn(1000, 100)
    return [
        *(_near(uniform.mean(), 0.5, 0.01), _near((uniform * uniform).mean(), 1.0 / 3.0, 0.01)),
        *(_near(normal.mean(), 0.0, 0.02), _near((normal * normal).mean(), 1.0, 0.03)),
    ]


def _dropout() -> list[jt.Var]:
    kept = nn.Dropout(0.5)(jt.ones((400, 400)))
    return [_near(kept.mean(), 1.0, 0.02), _near(kept.max(), 2.0, 1e-6), _near(kept.min(), 0.0, 1e-6)]


def _attention(x: jt.Var) -> jt.Var:
    return jt.matmul(nn.softmax(jt.matmul(x, x.transpose(0, 2, 1)), -1), x)


def _convolution_and_norm() -> jt.Module:
    # without a bias, whose derivative is zero before a norm: two roundings of zero have no relative difference
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())


def _softmax_last(x: jt.Var) -> jt.Var:
    return nn.softmax(x, -1)


def _log_softmax_last(x: jt.Var) -> jt.Var:
    return nn.log_softmax(x, -1)


_LSTM = _layer(lambda: nn.LSTM(8, 4), SEQUENCES, call=lambda layer, x: layer(x)[0])

PROBES: dict[str, Probe] = {
    "arithmetic": _of_rows(lambda x: x * 2.0 + x * x - x / (x * x + 1.0)),
    "matmul": Probe(jt.matmul, (ROWS, FACTOR)),
    "linear": _layer(lambda: nn.Linear(8, 4), ROWS),
    "relu": _of_rows(nn.relu),
    "cross_entropy": _of_rows(lambda x: nn.cross_entropy_loss(x, jt.array(LABELS), reduction="none")),
    "softmax_last": Probe(_softmax_last, (ROWS,), own=_softmax_last),
    "log_softmax_last": Probe(_log_softmax_last, (ROWS,), own=_log_softmax_last),
    "where": _of_rows(lambda x: jt.where(x > 0.0, x, x * x)),
    "sums": _of_rows(lambda x: x.sum(1, keepdims=True) * x.mean(0, keepdims=True)),
    "extremes": _of_rows(lambda x: x.max(1, keepdims=True) * x + x.min(0, keepdims=True)),
    "exp_log": _of_rows(lambda x: jt.exp(0.1 * x) + jt.log(x * x + 1.0) + jt.sqrt(x * x + 1.0)),
    "sigmoid_tanh": _of_rows(lambda x: jt.tanh(x) + jt.sigmoid(x)),
    "conv2d": Probe(lambda x, w: nn.conv2d(x, w, padding=1), (IMAGES, FILTERS)),
    "conv2d_stride": Probe(lambda x, w: nn.conv2d(x, w, stride=2), (IMAGES, FILTERS)),
    "conv_norm_relu": _layer(_convolution_and_norm, IMAGES),
    "max_pool": Probe(lambda x: max_pool2d(x, 2), (IMAGES,), own=lambda x: nn.Pool(2, 2, op="maximum")(x)),
    "average_pool": Probe(lambda x: nn.Pool(2, 2, op="mean")(x), (IMAGES,)),
    "layer_norm": _layer(lambda: nn.LayerNorm(8), ROWS),
    "embedding": Probe(lambda w: nn.embedding(jt.array(PLACES), w), (ROWS,)),
    "activations": _of_rows(lambda x: nn.softplus(x) + nn.gelu(x) + nn.silu(x) + nn.leaky_relu(x, 0.1) + nn.elu(x)),
    "batched_matmul": Probe(jt.matmul, (SEQUENCES, _numbers(3, 8, 5))),
    "broadcast_matmul": Probe(jt.matmul, (SEQUENCES, FACTOR)),
    "transposed_matmul": Probe(lambda x, w: jt.matmul(w.transpose(1, 0), x.transpose(1, 0)), (ROWS, FACTOR)),
    "einsum": Probe(lambda x, w: jt.linalg.einsum("ij,jk->ik", x, w), (ROWS, FACTOR)),
    "attention": Probe(_attention, (SEQUENCES,)),
    "softmax_first": _of_rows(lambda x: nn.softmax(x, 0)),
    "slice": _of_rows(lambda x: x[1:4, ::2] * 2.0),
    "index": _of_rows(lambda x: x[jt.array(PLACES)]),
    "set_slice": _of_rows(_set_rows),
    "gather": _of_rows(lambda x: jt.gather(x, 1, jt.array(LABELS).reshape(6, 1))),
    "transpose": Probe(lambda x: x.transpose(0, 2, 3, 1) * 2.0, (IMAGES,)),
    "concat": _of_rows(lambda x: jt.concat([x, x * 2.0], 0)),
    "stack": _of_rows(lambda x: jt.stack([x, x * x])),
    "clamp_abs": _of_rows(lambda x: jt.clamp(x, -0.9, 0.9) + jt.abs(x) + jt.maximum(x, x * 0.5)),
    "lstm": _LSTM._replace(own=_LSTM.function),
    "depthwise": _layer(lambda: nn.Conv2d(3, 3, 3, groups=3), IMAGES),
    "conv_transpose": _layer(lambda: nn.ConvTranspose2d(3, 4, 3), IMAGES),
    "group_norm": _layer(lambda: nn.GroupNorm(3, 3), IMAGES),
    "adaptive_pool": Probe(lambda x: nn.AdaptiveAvgPool2d((2, 2))(x), (IMAGES,)),
    "sgd": _optimizer(lambda variables: jt.optim.SGD(variables, 0.1, momentum=0.9)),
    "adam": _optimizer(lambda variables: jt.optim.Adam(variables, 0.1)),
    "rmsprop": _optimizer(lambda variables: jt.optim.RMSprop(variables, 0.1)),
    "adamw": _optimizer(lambda variables: jt.optim.AdamW(variables, 0.1)),
    "argmax": _values(lambda x: [*jt.argmax(x, 1), *jt.argmin(x, 0)], ROWS),
    "sort": _values(lambda x: [*jt.argsort(x, 1), *jt.argsort(x, 0, descending=True), *jt.topk(x, 3)], ROWS),
    "mask": _values(lambda x: [x[x > 0.0], jt.nonzero(x > 0.0)], ROWS),
    "casts": _values(lambda x: [x.float16().float32(), (4.0 * x).int32(), x.float64(), (x > 0.0).float32()], ROWS),
    "one_hot": _values(lambda: [nn.one_hot(jt.array(LABELS), 8)]),
    "random": _values(_random),
    "dropout": _values(_dropout),
    "shuffle": _values(lambda: [jt.randperm(10).sum()]),
    "norms": _values(lambda x: [x.norm(), x.std(), x.prod(1), jt.isnan(x).int32()], ROWS),
    "cumsum": _values(lambda x: [jt.cumsum(x, 1)], ROWS),
    "conv3d": Probe(nn.conv3d, (VOLUMES, VOLUME_FILTERS)),
    "float64": _of_rows(lambda x: jt.matmul(x.float64(), x.float64().transpose(1, 0))),
}
