"""Plain Jittor: the loop that one would write by hand, RAD as one lazy graph, CG and NS with computed vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from first_order_by_hand import Library, Step, first_order
import jboat  # noqa: F401  (starts Jittor)
import jittor as jt
from jittor_kernels import gpu_memory, kernels
from jittor_models import Problem, lower_cleaning, lower_l2, plain
import numpy as np
from serve import FIRST_ORDER, Contestant, Task, serve

Vector = list[jt.Var]


class Functional:
    """Parameters and a network called with them, as the objectives want a model."""

    def __init__(self, network: Any, weights: Vector) -> None:
        self._network = network
        self._weights = weights

    def parameters(self) -> Vector:
        """The parameters."""
        return self._weights

    def __call__(self, x: jt.Var) -> jt.Var:
        """Logits."""
        return self._network.called_with(self._weights, x)


class Jittor(Contestant):
    """See :class:`serve.Contestant`."""

    def __init__(self, task: Task) -> None:
        self._task = task
        jt.flags.use_cuda = int(task.device == "cuda")
        self._p = Problem(task.definition())
        self._rate = self._p.definition.rate
        self._y = self._theta = _computed(self._p.lower_model.weights())
        self._number = 0
        self._x = _computed(self._p.upper_model.parameters())

    def hypergradient(self) -> np.ndarray:
        """See :class:`serve.Contestant`."""
        return np.concatenate([g.numpy().ravel() for g in self._compute()[0]])

    def step(self) -> None:
        """See :class:`serve.Contestant`."""
        if self._task.chain in FIRST_ORDER:
            gradient, y, self._theta = self._first_order()
            self._number += 1
        else:
            gradient, y = self._compute()
        rate = self._p.definition.upper_rate
        x = [(x - rate * g).detach() for x, g in zip(self._x, gradient, strict=True)]
        y = [v.detach() for v in y]
        jt.sync([*x, *y])
        jt.sync_all(True)
        self._x, self._y = x, y

    def _compute(self) -> tuple[Vector, Vector]:
        if self._task.problem == "maml":
            tasks = zip(self._p.train, self._p.val, strict=True)
            gradients = [self._unrolled(pair, self._x)[0] for pair in tasks]
            return [sum(parts) / len(gradients) for parts in zip(*gradients, strict=True)], self._y
        if self._task.chain in FIRST_ORDER:
            return self._first_order()[:2]
        pair = self._p.train[0], self._p.val[0]
        return self._unrolled(pair, self._y) if self._task.chain == "RAD" else self._implicit(pair, self._y)

    def _first_order(self) -> Step:
        return first_order(
            Library(jt.grad, _computed),
            self._task.chain,
            self._number,
            lambda y: self._lower(self._p.train[0], y),
            lambda y: self._upper(self._p.val[0], y),
            Step(self._x, _computed(self._y), _computed(self._theta)),
            lower_iters=self._task.lower_iters,
            rate=self._rate,
        )

    def _lower(self, batch: dict[str, Any], y: Vector) -> jt.Var:
        model = Functional(self._p.lower_model, y)
        if self._task.problem == "maml":
            return plain(batch, None, model)
        upper = type("Upper", (), {"value": self._x[0]})
        return (lower_l2 if self._task.problem == "l2" else lower_cleaning)(batch, upper, model)

    def _upper(self, batch: dict[str, Any], y: Vector) -> jt.Var:
        return plain(batch, None, Functional(self._p.lower_model, y))

    def _unrolled(self, pair: tuple[Any, Any], y: Vector) -> tuple[Vector, Vector]:
        first = "FOA" in self._task.chain
        for _ in range(self._task.lower_iters):
            gradient = jt.grad(self._lower(pair[0], y), y)
            y = [v - self._rate * (g.detach() if first else g) for v, g in zip(y, gradient, strict=True)]
        return jt.grad(self._upper(pair[1], y), self._x), y

    def _implicit(self, pair: tuple[Any, Any], y: Vector) -> tuple[Vector, Vector]:
        before = y
        for _ in range(self._task.lower_iters):
            before = y
            gradient = jt.grad(self._lower(pair[0], y), y)
            y = _computed([v - self._rate * g for v, g in zip(y, gradient, strict=True)])
        b = _computed(jt.grad(self._upper(pair[1], y), y))
        if self._task.chain == "FD":
            radius = 0.01 / _dot(b, b).sqrt()
            sides = []
            for sign in (1.0, -1.0):
                moved = _computed([v + sign * radius * g for v, g in zip(before, b, strict=True)])
                sides.append(_computed(jt.grad(self._lower(pair[0], moved), self._x)))
            return [-self._rate * (p - m) / (2.0 * radius) for p, m in zip(*sides, strict=True)], y
        gradient = jt.grad(self._lower(pair[0], y), y)

        def product(v: Vector) -> Vector:
            return [g.detach() for g in jt.grad(_dot(gradient, v), y)]

        if self._task.chain == "CG":
            q = _conjugate_gradient(product, b, self._task.iterations)
        else:
            q = _neumann(product, b, self._rate, self._task.iterations)
        return [-g for g in jt.grad(_dot(gradient, q), self._x)], y


def _computed(variables: Vector) -> Vector:
    held = [v.detach() for v in variables]
    jt.sync(held)
    return held


def _dot(a: Vector, b: Vector) -> jt.Var:
    return sum((p * q).sum() for p, q in zip(a, b, strict=True))


def _axpy(a: jt.Var | float, x: Vector, y: Vector) -> Vector:
    return [a * p + q for p, q in zip(x, y, strict=True)]


def _conjugate_gradient(product: Callable[[Vector], Vector], b: Vector, iterations: int) -> Vector:
    q, r, d = [jt.zeros_like(v) for v in b], b, b
    square = _dot(r, r).detach()
    for _ in range(iterations):
        image = product(d)
        step = square / _dot(d, image)
        q, r = _axpy(step, d, q), _axpy(-step, image, r)
        new = _dot(r, r)
        d = _axpy(new / square, d, r)
        *vectors, square = _computed([*q, *r, *d, new])
        q, r, d = (vectors[i * len(b) : (i + 1) * len(b)] for i in range(3))
    return q


def _neumann(product: Callable[[Vector], Vector], b: Vector, rate: float, iterations: int) -> Vector:
    q = term = [rate * v for v in b]
    for _ in range(iterations):
        vectors = _axpy(-rate, product(term), term)
        vectors = _computed([*vectors, *_axpy(1.0, vectors, q)])
        term, q = vectors[: len(b)], vectors[len(b) :]
    return q


if __name__ == "__main__":
    serve(Jittor, kernels, gpu_memory)
