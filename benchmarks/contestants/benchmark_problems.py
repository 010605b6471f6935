"""The arrays of the benchmark problems, the same for every contestant."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import resnet_layout

IMAGE = (3, 32, 32)
CHANNELS = 32
LAYERS = 4
TASKS = 4
HIDDEN = 300
PENALTY = -5.0

Batch = tuple[np.ndarray, np.ndarray]


class Problem(NamedTuple):
    """One bilevel problem.

    Attributes:
        name: one of :data:`SIZES`.
        pairs: (lower batch, upper batch) of every task, data and targets; one pair where there are no tasks.
        weights: y_0, in the order of the network's parameters; convolutions and linear layers as [out, in, ...]; those
            of ``resnet`` as in :mod:`resnet_layout`.
        upper: x: a row of log weights (``l2``), logits of sample weights, or the weights' initialisation (``maml``).
        rate: the lower learning rate.
        upper_rate: the upper learning rate.
    """

    name: str
    pairs: list[tuple[Batch, Batch]]
    weights: list[np.ndarray]
    upper: list[np.ndarray]
    rate: float
    upper_rate: float


# samples a batch, shape of a sample, classes
SIZES: dict[str, tuple[int, tuple[int, ...], int]] = {
    "l2": (1000, (1000,), 20),
    "cleaning": (5000, (784,), 10),
    "mlp": (5000, (784,), 10),
    "cnn": (64, IMAGE, 10),
    "maml": (25, IMAGE, 5),
    "resnet": (256, IMAGE, 10),
}
LOWER_ITERS = {"l2": 10, "cleaning": 10, "mlp": 10, "cnn": 5, "maml": 5, "resnet": 3}


def make(
    name: str,
    *,
    samples: int | None = None,
    features: int | None = None,
    pixels: int | None = None,
    tasks: int | None = None,
    hidden: int | None = None,
) -> Problem:
    """The problem of this name, of another size if wanted.

    Classes are Gaussian clouds that overlap, so that both levels have something to learn.

    Args:
        name: one of :data:`SIZES`.
        samples: a batch.
        features: of a sample that is a row of numbers.
        pixels: height and width of a sample that is an image.
        tasks: of ``maml``.
        hidden: of ``maml``, units of a perceptron's hidden layer, in the place of convolutions; with ``features``.
    """
    size, shape, classes = SIZES[name]
    size = samples or size
    shape = (features,) if features else shape
    shape = (shape[0], pixels, pixels) if pixels and len(shape) == 3 else shape
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(classes, *shape))
    scale = 1.0 if len(shape) == 3 else np.sqrt(np.prod(shape))

    def batch() -> Batch:
        target = rng.integers(0, classes, size).astype(np.int32)
        data = 0.3 * centres[target] + rng.normal(size=(size, *shape))
        return (data / scale).astype(np.float32), target

    pairs = [(batch(), batch()) for _ in range((tasks or TASKS) if name == "maml" else 1)]
    weights = [w.astype(np.float32) for w in _weights(name, shape, classes, rng, hidden)]
    if name == "maml":
        upper = [w.copy() for w in weights]
    elif name == "l2":
        upper = [np.full((1, *shape), PENALTY, np.float32)]
    else:
        upper = [np.zeros(size, np.float32)]
    rate = {"cnn": 0.1, "maml": 0.1, "resnet": 0.05}.get(name, 0.5)
    return Problem(name, pairs, weights, upper, rate, 0.1)


def _weights(
    name: str, shape: tuple[int, ...], classes: int, rng: np.random.Generator, hidden: int | None
) -> list[np.ndarray]:
    if name in ("l2", "cleaning"):
        return [0.1 * rng.normal(size=(classes, *shape))]
    if name == "mlp" or hidden:
        inputs, hidden = shape[0], hidden or HIDDEN
        return [
            rng.normal(size=(hidden, inputs)) * np.sqrt(2.0 / inputs) * 5.0,
            np.zeros(hidden),
            rng.normal(size=(classes, hidden)) / np.sqrt(hidden),
            np.zeros(classes),
        ]
    if name == "resnet":
        return resnet_layout.weights(shape[0], classes, rng)
    weights = []
    inputs = shape[0]
    for _ in range(LAYERS):
        weights += [rng.normal(size=(CHANNELS, inputs, 3, 3)) * np.sqrt(2.0 / (9 * inputs)), np.zeros(CHANNELS)]
        inputs = CHANNELS
    flat = CHANNELS * (shape[1] // 2**LAYERS) * (shape[2] // 2**LAYERS)
    return [*weights, rng.normal(size=(classes, flat)) / np.sqrt(flat), np.zeros(classes)]
