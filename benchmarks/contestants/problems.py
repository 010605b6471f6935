"""The arrays of the benchmark problems, the same for every contestant."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Arrays(NamedTuple):
    """One problem: data, targets, start, and the size of the upper variable.

    Attributes:
        train: lower-level data, shape [n, features], and targets, shape [n].
        val: upper-level data and targets.
        weight: y_0, shape [classes, features].
        upper: x, one number per feature (``l2``) or per training sample (``cleaning``).
        rate: the lower learning rate.
        upper_rate: the upper learning rate.
    """

    train: tuple[np.ndarray, np.ndarray]
    val: tuple[np.ndarray, np.ndarray]
    weight: np.ndarray
    upper: np.ndarray
    rate: float
    upper_rate: float


SIZES = {"l2": (1000, 1000, 20), "cleaning": (5000, 784, 10)}


def arrays(problem: str) -> Arrays:
    """The arrays of ``"l2"``, one L2 weight per feature, or ``"cleaning"``, one weight per training sample.

    Classes are Gaussian clouds that overlap, so that both levels have something to learn.
    """
    samples, features, classes = SIZES[problem]
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(classes, features))

    def split() -> tuple[np.ndarray, np.ndarray]:
        target = rng.integers(0, classes, samples).astype(np.int32)
        data = 0.3 * centres[target] + rng.normal(size=(samples, features))
        return (data / np.sqrt(features)).astype(np.float32), target

    train, val = split(), split()
    weight = 0.1 * rng.normal(size=(classes, features)).astype(np.float32)
    upper = np.full(features, -5.0) if problem == "l2" else np.zeros(samples)
    return Arrays(train, val, weight.astype(np.float32), upper.astype(np.float32), 0.5, 0.1)
