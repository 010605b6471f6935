"""The problems of the public suite ``benchmark_bilevel``, with their derivatives written by hand in numpy.

As Dagreou, Ablin, Vaiter and Moreau (NeurIPS 2022) state them: a simulated quadratic, logistic regression with one
penalty a feature, softmax regression with one penalty a class, and hyper-cleaning with a linear softmax model. Without
files the last three are of generated data of the same form, hyper-cleaning of scikit-learn's digits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
import gzip
import itertools
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, cg

Batch = Mapping[str, np.ndarray]
Array = np.ndarray


class Problem(ABC):
    """One bilevel problem with its samples.

    Attributes:
        name: of the problem.
        lower: arrays of the lower level, samples first.
        upper: arrays of the upper level, samples first.
        x0: where x starts.
        y0: where y starts.
        rates: a lower and an upper learning rate, in multiples of which step sizes are tried.
    """

    name = ""
    lower: dict[str, Array]
    upper: dict[str, Array]
    x0: Array
    y0: Array
    rates: tuple[float, float] = (1.0, 1.0)

    @abstractmethod
    def lower_value(self, x: Array, y: Array, batch: Batch) -> float:
        """The lower objective f."""

    @abstractmethod
    def lower_by_y(self, x: Array, y: Array, batch: Batch) -> Array:
        """Its gradient by y."""

    @abstractmethod
    def lower_by_x(self, x: Array, y: Array, batch: Batch) -> Array:
        """Its gradient by x."""

    @abstractmethod
    def products(self, x: Array, y: Array, v: Array, batch: Batch) -> tuple[Array, Array]:
        """``(d2 f / dy2) v`` and ``(d2 f / dx dy) v``."""

    @abstractmethod
    def upper_value(self, x: Array, y: Array, batch: Batch) -> float:
        """The upper objective F."""

    @abstractmethod
    def upper_gradients(self, x: Array, y: Array, batch: Batch) -> tuple[Array, Array]:
        """The gradients of F by y and by x."""

    def test_error(self, y: Array) -> float:
        """The share of test samples that y gets wrong; NaN where there are none."""
        return float("nan")

    def solution(self, x: Array) -> Array:
        """The lower solution at x, of all samples."""
        shape = self.y0.shape

        def value(flat: Array) -> tuple[float, Array]:
            y = flat.reshape(shape)
            return self.lower_value(x, y, self.lower), self.lower_by_y(x, y, self.lower).ravel()

        options = {"maxiter": 2000, "ftol": 1e-14, "gtol": 1e-7}
        return minimize(value, self.y0.ravel(), jac=True, method="L-BFGS-B", options=options).x.reshape(shape)

    def hypergradient(self, x: Array, y: Array) -> Array:
        """The gradient of F(x, y*(x)) by x of all samples, with the lower solution y."""
        by_y, by_x = self.upper_gradients(x, y, self.upper)
        size = y.size

        def hessian(v: Array) -> Array:
            return self.products(x, y, v.reshape(y.shape), self.lower)[0].ravel()

        v, _ = cg(LinearOperator((size, size), hessian, dtype=float), by_y.ravel(), rtol=1e-8, maxiter=1000)
        return by_x - self.products(x, y, v.reshape(y.shape), self.lower)[1]

    def measures(self, x: Array, y: Array) -> dict[str, float]:
        """F and its squared true hypergradient at the lower solution, the squared distance from it, the test error."""
        x, y = x.astype(np.float64), y.astype(np.float64)
        best = self.solution(x)
        return {
            "value": self.upper_value(x, best, self.upper),
            "hypergradient": float((self.hypergradient(x, best) ** 2).sum()),
            "distance": float(((y - best) ** 2).sum()),
            "test_error": self.test_error(y),
        }


class Quadratic(Problem):
    """``f_i = y'A_i y / 2 + x'C_i y + b_i'y``, and F_i likewise with ``x'G x / 2`` besides."""

    name = "quadratic"
    rates = (1.0, 0.5)

    def __init__(self, seed: int = 0, *, samples: int = 1024, dim_y: int = 20, dim_x: int = 10) -> None:
        rng = np.random.default_rng(seed)

        def hessians(least: float) -> Array:
            base = np.linalg.qr(rng.normal(size=(samples, dim_y, dim_y)))[0]
            values = rng.uniform(least, 1.0, size=(samples, 1, dim_y))
            return (base * values) @ base.swapaxes(1, 2)

        def level(least: float) -> dict[str, Array]:
            return {
                "A": hessians(least),
                "C": 0.3 * rng.normal(size=(samples, dim_x, dim_y)) / np.sqrt(dim_y) + 0.1 * shift,
                "b": rng.normal(size=(samples, dim_y)),
            }

        shift = rng.normal(size=(dim_x, dim_y))
        self.lower, self.upper = level(0.1), level(0.1)
        self.x0, self.y0 = rng.normal(size=dim_x), np.zeros(dim_y)

    def lower_value(self, x: Array, y: Array, batch: Batch) -> float:
        """See :class:`Problem`."""
        return float((0.5 * (batch["A"] @ y) @ y + (batch["C"] @ y) @ x + batch["b"] @ y).mean())

    def lower_by_y(self, x: Array, y: Array, batch: Batch) -> Array:
        """See :class:`Problem`."""
        return (batch["A"] @ y + x @ batch["C"] + batch["b"]).mean(0)

    def lower_by_x(self, x: Array, y: Array, batch: Batch) -> Array:
        """See :class:`Problem`."""
        return (batch["C"] @ y).mean(0)

    def products(self, x: Array, y: Array, v: Array, batch: Batch) -> tuple[Array, Array]:
        """See :class:`Problem`."""
        return (batch["A"] @ v).mean(0), (batch["C"] @ v).mean(0)

    def upper_value(self, x: Array, y: Array, batch: Batch) -> float:
        """See :class:`Problem`."""
        return self.lower_value(x, y, batch) + 0.5 * float(x @ x)

    def upper_gradients(self, x: Array, y: Array, batch: Batch) -> tuple[Array, Array]:
        """See :class:`Problem`."""
        return self.lower_by_y(x, y, batch), (batch["C"] @ y).mean(0) + x

    def solution(self, x: Array) -> Array:
        """The closed form."""
        hessian, cross, linear = (self.lower[name].mean(0) for name in ("A", "C", "b"))
        return -np.linalg.solve(hessian, x @ cross + linear)

    def hypergradient(self, x: Array, y: Array) -> Array:
        """The closed form."""
        by_y, by_x = self.upper_gradients(x, y, self.upper)
        return by_x - self.lower["C"].mean(0) @ np.linalg.solve(self.lower["A"].mean(0), by_y)


class Logistic(Problem):
    """Logistic regression with one penalty ``exp(x_j) y_j^2 / 2`` a feature; of the form of ijcnn1."""

    name = "logistic"
    rates = (1.0, 10.0)

    def __init__(self, seed: int = 0, *, data: Path | None = None, samples: int = 49990) -> None:
        rng = np.random.default_rng(seed)
        if data is not None:
            features, labels = _svmlight(data)
        else:
            features, labels = _clouds(rng, 3 * samples, 22, 2)
        a, b, c = _three_parts(features, 2.0 * labels - 1.0, rng)
        self.lower, self.upper = ({"data": part[0], "target": part[1]} for part in (a, b))
        self._test = c
        self.x0, self.y0 = np.full(features.shape[1], -2.0), np.zeros(features.shape[1])

    def lower_value(self, x: Array, y: Array, batch: Batch) -> float:
        """See :class:`Problem`."""
        return float(np.logaddexp(0.0, -batch["target"] * (batch["data"] @ y)).mean() + 0.5 * (np.exp(x) * y * y).sum())

    def lower_by_y(self, x: Array, y: Array, batch: Batch) -> Array:
        """See :class:`Problem`."""
        return _logistic_by_y(y, batch) + np.exp(x) * y

    def lower_by_x(self, x: Array, y: Array, batch: Batch) -> Array:
        """See :class:`Problem`."""
        return 0.5 * np.exp(x) * y * y

    def products(self, x: Array, y: Array, v: Array, batch: Batch) -> tuple[Array, Array]:
        """See :class:`Problem`."""
        wrong = 1.0 / (1.0 + np.exp(batch["target"] * (batch["data"] @ y)))
        curved = wrong * (1.0 - wrong) * (batch["data"] @ v)
        return batch["data"].T @ curved / len(curved) + np.exp(x) * v, np.exp(x) * y * v

    def upper_value(self, x: Array, y: Array, batch: Batch) -> float:
        """See :class:`Problem`."""
        return float(np.logaddexp(0.0, -batch["target"] * (batch["data"] @ y)).mean())

    def upper_gradients(self, x: Array, y: Array, batch: Batch) -> tuple[Array, Array]:
        """See :class:`Problem`."""
        return _logistic_by_y(y, batch), np.zeros_like(x)

    def test_error(self, y: Array) -> float:
        """See :class:`Problem`."""
        return float((self._test[1] * (self._test[0] @ y) <= 0.0).mean())


class Softmax(Problem):
    """Softmax regression with one penalty ``exp(x_c) ||y_c||^2 / 2`` a class; of the form of covtype."""

    name = "softmax"
    rates = (0.5, 5.0)
    classes = 7

    def __init__(self, seed: int = 0, *, data: Path | None = None, samples: int = 371847) -> None:
        rng = np.random.default_rng(seed)
        if data is not None:
            features, labels = _svmlight(data)
        else:
            features, labels = _clouds(rng, samples + 2 * (samples // 4), 54, self.classes)
        a, b, c = _three_parts(features, labels, rng, sizes=(4, 1, 1))
        self.lower, self.upper = ({"data": part[0], "target": part[1].astype(np.int32)} for part in (a, b))
        self._test = c
        self.x0, self.y0 = np.full(self.classes, -2.0), np.zeros((features.shape[1], self.classes))

    def lower_value(self, x: Array, y: Array, batch: Batch) -> float:
        """See :class:`Problem`."""
        return float(_losses(y, batch).mean() + 0.5 * (np.exp(x) * y * y).sum())

    def lower_by_y(self, x: Array, y: Array, batch: Batch) -> Array:
        """See :class:`Problem`."""
        return batch["data"].T @ _off(y, batch) / len(batch["data"]) + np.exp(x) * y

    def lower_by_x(self, x: Array, y: Array, batch: Batch) -> Array:
        """See :class:`Problem`."""
        return 0.5 * np.exp(x) * (y * y).sum(0)

    def products(self, x: Array, y: Array, v: Array, batch: Batch) -> tuple[Array, Array]:
        """See :class:`Problem`."""
        curved = _curved(y, v, batch) / len(batch["data"])
        return batch["data"].T @ curved + np.exp(x) * v, np.exp(x) * (y * v).sum(0)

    def upper_value(self, x: Array, y: Array, batch: Batch) -> float:
        """See :class:`Problem`."""
        return float(_losses(y, batch).mean())

    def upper_gradients(self, x: Array, y: Array, batch: Batch) -> tuple[Array, Array]:
        """See :class:`Problem`."""
        return batch["data"].T @ _off(y, batch) / len(batch["data"]), np.zeros_like(x)

    def test_error(self, y: Array) -> float:
        """See :class:`Problem`."""
        return float(((self._test[0] @ y).argmax(1) != self._test[1]).mean())


class Cleaning(Problem):
    """Hyper-cleaning: ``f = mean_i sigmoid(x_i) loss_i + 0.2 ||y||^2`` on labels half of which are wrong."""

    name = "cleaning"
    rates = (0.5, 50.0)
    penalty = 0.2

    def __init__(self, seed: int = 0, *, data: Path | None = None, wrong: float = 0.5) -> None:
        rng = np.random.default_rng(seed)
        features, labels = _digits() if data is None else _idx(data)
        a, b, c = _three_parts(features, labels, rng, sizes=(4, 1, 1))
        target = a[1].astype(np.int32)
        corrupted = rng.random(len(target)) < wrong
        target[corrupted] = rng.integers(0, 10, corrupted.sum())
        self.lower = {"data": a[0], "target": target, "place": np.arange(len(target), dtype=np.int32)}
        self.upper = {"data": b[0], "target": b[1].astype(np.int32)}
        self._test = c
        self.x0, self.y0 = np.zeros(len(target)), np.zeros((features.shape[1], 10))

    def lower_value(self, x: Array, y: Array, batch: Batch) -> float:
        """See :class:`Problem`."""
        return float((_sigmoid(x[batch["place"]]) * _losses(y, batch)).mean() + self.penalty * (y * y).sum())

    def lower_by_y(self, x: Array, y: Array, batch: Batch) -> Array:
        """See :class:`Problem`."""
        weighted = _sigmoid(x[batch["place"]])[:, None] * _off(y, batch)
        return batch["data"].T @ weighted / len(weighted) + 2.0 * self.penalty * y

    def lower_by_x(self, x: Array, y: Array, batch: Batch) -> Array:
        """See :class:`Problem`."""
        return self._at_places(x, _losses(y, batch), batch)

    def products(self, x: Array, y: Array, v: Array, batch: Batch) -> tuple[Array, Array]:
        """See :class:`Problem`."""
        weights = _sigmoid(x[batch["place"]])[:, None]
        curved = weights * _curved(y, v, batch) / len(batch["data"])
        mixed = self._at_places(x, (_off(y, batch) * (batch["data"] @ v)).sum(1), batch)
        return batch["data"].T @ curved + 2.0 * self.penalty * v, mixed

    def upper_value(self, x: Array, y: Array, batch: Batch) -> float:
        """See :class:`Problem`."""
        return float(_losses(y, batch).mean())

    def upper_gradients(self, x: Array, y: Array, batch: Batch) -> tuple[Array, Array]:
        """See :class:`Problem`."""
        return batch["data"].T @ _off(y, batch) / len(batch["data"]), np.zeros_like(x)

    def test_error(self, y: Array) -> float:
        """See :class:`Problem`."""
        return float(((self._test[0] @ y).argmax(1) != self._test[1]).mean())

    def _at_places(self, x: Array, of_samples: Array, batch: Batch) -> Array:
        weights = _sigmoid(x[batch["place"]])
        result = np.zeros_like(x)
        np.add.at(result, batch["place"], weights * (1.0 - weights) * of_samples / len(of_samples))
        return result


PROBLEMS: dict[str, type[Problem]] = {p.name: p for p in (Quadratic, Logistic, Softmax, Cleaning)}


def batches(level: Batch, size: int, rng: np.random.Generator) -> list[dict[str, Array]]:
    """A level's samples in batches of one size, in an order of their own; what is left over is left out."""
    count = len(next(iter(level.values())))
    order = rng.permutation(count)
    places = [order[i : i + size] for i in range(0, count - size + 1, size)]
    return [{name: array[place] for name, array in level.items()} for place in places]


def _sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def _logistic_by_y(y: Array, batch: Batch) -> Array:
    wrong = 1.0 / (1.0 + np.exp(batch["target"] * (batch["data"] @ y)))
    return -batch["data"].T @ (batch["target"] * wrong) / len(wrong)


def _probabilities(y: Array, batch: Batch) -> Array:
    logits = batch["data"] @ y
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def _losses(y: Array, batch: Batch) -> Array:
    logits = batch["data"] @ y
    logits = logits - logits.max(1, keepdims=True)
    return np.log(np.exp(logits).sum(1)) - logits[np.arange(len(logits)), batch["target"]]


def _off(y: Array, batch: Batch) -> Array:
    off = _probabilities(y, batch)
    off[np.arange(len(off)), batch["target"]] -= 1.0
    return off


def _curved(y: Array, v: Array, batch: Batch) -> Array:
    p, moved = _probabilities(y, batch), batch["data"] @ v
    return p * (moved - (p * moved).sum(1, keepdims=True))


def _clouds(rng: np.random.Generator, samples: int, features: int, classes: int) -> tuple[Array, Array]:
    """Gaussian clouds that overlap, one a class."""
    labels = rng.integers(0, classes, samples)
    centres = 0.7 * rng.normal(size=(classes, features)) * (rng.random(features) < 0.4)
    return centres[labels] + rng.normal(size=(samples, features)), labels


def _three_parts(
    features: Array, labels: Array, rng: np.random.Generator, sizes: tuple[int, int, int] = (1, 1, 1)
) -> list[tuple[Array, Array]]:
    """Samples to train, to validate and to test, features scaled as those to train are."""
    order = rng.permutation(len(labels))
    cuts = [len(labels) * sum(sizes[:i]) // sum(sizes) for i in range(4)]
    parts = [order[start:end] for start, end in itertools.pairwise(cuts)]
    mean, std = features[parts[0]].mean(0), features[parts[0]].std(0) + 1e-8
    return [((features[part] - mean) / std / np.sqrt(features.shape[1]) * 3.0, labels[part]) for part in parts]


def _digits() -> tuple[Array, Array]:
    from sklearn.datasets import load_digits  # needed for one problem alone

    found = load_digits()
    return found.data, found.target


def _svmlight(path: Path) -> tuple[Array, Array]:
    from sklearn.datasets import load_svmlight_file  # needed where there is a file alone

    features, labels = load_svmlight_file(str(path))
    _, places = np.unique(labels, return_inverse=True)
    return features.toarray(), places


def _idx(folder: Path) -> tuple[Array, Array]:
    """MNIST's training images and labels, as the IDX files that it is published in."""
    arrays = []
    for name, offset in (("train-images-idx3-ubyte.gz", 16), ("train-labels-idx1-ubyte.gz", 8)):
        with gzip.open(folder / name, "rb") as file:
            arrays.append(np.frombuffer(file.read(), np.uint8, offset=offset))
    images, labels = arrays
    return images.reshape(len(labels), -1).astype(np.float64), labels
