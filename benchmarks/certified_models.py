"""The models of the table of certified models: those of jittor.models, and small ones around one layer each."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jboat  # noqa: F401  # prepares what Jittor finds when it is imported
import jittor as jt
from jittor import models, nn
from jittor.weightnorm import weight_norm
import numpy as np

CLASSES = 5


class Case(NamedTuple):
    """A model and what it is fed.

    Attributes:
        make: builds it; its output, or the first of several, is logits ``[n, at least CLASSES]``.
        shape: of one sample.
        samples: how many at each level.
        words: whether samples are whole numbers below 7.
        kinks: whether there are ReLUs and windows with a maximum by the thousand.
    """

    make: Callable[[], jt.Module]
    shape: tuple[int, ...]
    samples: int = 6
    words: bool = False
    kinks: bool = False


class Mean(jt.Module):
    """The mean over all dimensions but the first and ``kept``."""

    def __init__(self, kept: int) -> None:
        self._kept = kept

    def execute(self, x: jt.Var) -> jt.Var:
        """Shape [n, kept]."""
        return x.mean([d for d in range(1, x.ndim) if d != self._kept])


class Attention(jt.Module):
    """One layer of attention of a sequence to itself."""

    def __init__(self, width: int) -> None:
        self.project = nn.Linear(width, 3 * width)
        self.head = nn.Linear(width, CLASSES)

    def execute(self, x: jt.Var) -> jt.Var:
        """Logits of x, shape [n, length, width]."""
        q, k, v = self.project(x).chunk(3, dim=-1)
        weights = nn.softmax(nn.bmm_transpose(q, k) / q.shape[-1] ** 0.5, dim=-1)
        return self.head(nn.bmm(weights, v).mean(1))


class Recurrent(jt.Module):
    """A recurrent layer, and logits from its last output."""

    def __init__(self, layer: jt.Module, width: int) -> None:
        self.layer = layer
        self.head = nn.Linear(width, CLASSES)

    def execute(self, x: jt.Var) -> jt.Var:
        """Logits of x, shape [n, length, width]."""
        return self.head(self.layer(x.transpose((1, 0, 2)))[0][-1])


def _weight_normed() -> jt.Module:
    layer: jt.Module = nn.Conv(4, 4, 3)
    weight_norm(layer, "weight", 0)
    return layer


def _images(layer: Callable[[], jt.Module], size: int = 6, samples: int = 6) -> Case:
    def make() -> jt.Module:
        return nn.Sequential(nn.Conv(3, 4, 3, padding=1), layer(), nn.Tanh(), Mean(1), nn.Linear(4, CLASSES))

    return Case(make, (3, size, size), samples)


def _images_of(make: Callable[[], jt.Module], size: int, samples: int = 4) -> Case:
    return Case(make, (3, size, size), samples, kinks=True)


def _zoo(name: str, size: int, samples: int = 4, **options: int) -> Case:
    def make() -> jt.Module:
        found: jt.Module = getattr(models, name)(**options)
        return found

    return _images_of(make, size, samples)


def _head(inputs: int) -> jt.Module:
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, CLASSES))


def _slim_alexnet() -> jt.Module:
    model = models.AlexNet(num_classes=CLASSES)
    model.classifier = _head(256 * 6 * 6)
    return model


def _slim_vgg() -> jt.Module:
    widths = [max(n // 8, 1) if n != "M" else n for n in models.vgg.cfgs["A"]]
    model = models.VGG(models.vgg.make_layers(widths), num_classes=CLASSES)
    model.classifier = _head(64 * 7 * 7)
    return model


def _short_wide_resnet() -> jt.Module:
    resnet = models.resnet
    return resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], width_per_group=128, num_classes=CLASSES)


def _short_res2net() -> jt.Module:
    res2net = models.res2net
    return res2net.Res2Net(res2net.Bottle2neck, [1, 1, 1, 1], num_classes=CLASSES)


SMALL = {
    "LayerNorm": Case(lambda: nn.Sequential(nn.Linear(8, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, CLASSES)), (8,)),
    "attention": Case(lambda: Attention(6), (5, 6)),
    "BatchNorm": _images(lambda: nn.BatchNorm(4)),
    "GroupNorm": _images(lambda: nn.GroupNorm(2, 4)),
    "max pooling": _images(lambda: nn.MaxPool2d(2, 2), 4, 2),  # so few kinks that CG can be tried
    "depthwise": _images(lambda: nn.Conv(4, 4, 3, padding=1, groups=4)),
    "grouped": _images(lambda: nn.Conv(4, 4, 3, padding=1, groups=2)),
    "ConvTranspose": _images(lambda: nn.ConvTranspose(4, 4, 3, stride=2)),
    "Upsample": _images(lambda: nn.Upsample(scale_factor=2, mode="bilinear")),
    "weight norm": _images(_weight_normed),
    "Embedding": Case(
        lambda: nn.Sequential(nn.Embedding(7, 6), Mean(2), nn.Tanh(), nn.Linear(6, CLASSES)), (5,), words=True
    ),
    "LSTM": Case(lambda: Recurrent(nn.LSTM(6, 5), 5), (4, 6)),
    "GRU": Case(lambda: Recurrent(nn.GRU(6, 5), 5), (4, 6)),
}
ZOO = {
    "alexnet with a slim classifier": _images_of(_slim_alexnet, 224, 2),
    "vgg11 of an eighth of the width": _images_of(_slim_vgg, 224, 2),
    "resnet18": _zoo("resnet18", 48, num_classes=CLASSES),
    "wide resnet of one block a stage": _images_of(_short_wide_resnet, 48),
    "googlenet": _zoo("googlenet", 128, 2, num_classes=CLASSES),
    "inception_v3": _zoo("inception_v3", 171, 2, num_classes=CLASSES, aux_logits=False),
    "densenet121": _zoo("densenet121", 64, num_classes=CLASSES),
    "squeezenet1_1": _zoo("squeezenet1_1", 64, num_classes=CLASSES),
    "mobilenet_v2": _zoo("mobilenet_v2", 48),
    "mnasnet0_5": _zoo("mnasnet0_5", 48, num_classes=CLASSES),
    "shufflenet_v2_x0_5": _zoo("shufflenet_v2_x0_5", 48),
    "res2net of one block a stage": _images_of(_short_res2net, 64),
}
CASES = {**SMALL, **ZOO}


def batches(case: Case) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The lower and the upper batch, always the same."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(2):
        shape = (case.samples, *case.shape)
        data = rng.integers(0, 7, shape).astype("int32") if case.words else rng.normal(size=shape).astype("float32")
        found.append({"data": data, "target": rng.integers(0, CLASSES, case.samples).astype("int32")})
    return found[0], found[1]
