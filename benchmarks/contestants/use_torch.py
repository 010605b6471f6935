"""Plain PyTorch: the loop that one would write by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from first_order_by_hand import Library, Step, first_order
import numpy as np
from serve import FIRST_ORDER, OPTIONS, Contestant, Task, serve
import torch
from torch.autograd import grad
from torch_models import batches, finish, gpu_memory, lower_value, network, upper_value

Vector = list[torch.Tensor]


class Torch(Contestant):
    """See :class:`serve.Contestant`."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._definition = definition = task.definition()
        self._pairs = list(zip(*batches(definition, task.device), strict=True))
        self._x = [torch.from_numpy(x.copy()).to(task.device).requires_grad_() for x in definition.upper]
        self._y = self._theta = [torch.from_numpy(y.copy()).to(task.device) for y in definition.weights]
        self._called_with = network(definition, task.device).called_with
        self._number = 0

    def hypergradient(self) -> np.ndarray:
        """See :class:`serve.Contestant`."""
        return np.concatenate([g.detach().cpu().numpy().ravel() for g in self._compute()[0]])

    def step(self) -> None:
        """See :class:`serve.Contestant`."""
        if self._task.chain in FIRST_ORDER:
            gradient, self._y, self._theta = self._first_order()
            self._number += 1
        else:
            gradient, self._y = self._compute()
        with torch.no_grad():
            for x, g in zip(self._x, gradient, strict=True):
                x -= self._definition.upper_rate * g
        finish(self._task.device)

    def _compute(self) -> tuple[Vector, Vector]:
        if self._task.problem == "maml":
            gradients = [self._unrolled(pair, self._x)[0] for pair in self._pairs]
            return [sum(parts) / len(gradients) for parts in zip(*gradients, strict=True)], self._y  # type: ignore[misc]
        if self._task.chain in FIRST_ORDER:
            return self._first_order()[:2]
        y = _leaves(self._y)
        unroll = "RAD" in self._task.chain
        return self._unrolled(self._pairs[0], y) if unroll else self._implicit(self._pairs[0], y)

    def _first_order(self) -> Step:
        train, val = self._pairs[0]
        return first_order(
            Library(lambda value, arrays: grad(value, arrays), _leaves),
            self._task.chain,
            self._number,
            lambda y: self._lower(train, y),
            lambda y: self._upper(val, y),
            Step(self._x, _leaves(self._y), _leaves(self._theta)),
            lower_iters=self._task.lower_iters,
            rate=self._definition.rate,
        )

    def _lower(self, batch: dict[str, torch.Tensor], y: Sequence[torch.Tensor]) -> torch.Tensor:
        return lower_value(self._task.problem, batch, self._x[0], y, self._called_with)

    def _upper(self, batch: dict[str, torch.Tensor], y: Sequence[torch.Tensor]) -> torch.Tensor:
        return upper_value(batch, y, self._called_with)

    def _unrolled(self, pair: tuple[dict[str, torch.Tensor], ...], y: Vector) -> tuple[Vector, Vector]:
        chain = self._task.chain.split("+")
        truncated = self._task.lower_iters // 2 if "RGT" in chain else 0
        iterates = []
        for k in range(self._task.lower_iters):
            if k == truncated and "RGT" in chain:
                y = _leaves(y)
            value = self._lower(pair[0], y)
            if "GDA" in chain:
                mix = OPTIONS["GDA"]["alpha_init"] * OPTIONS["GDA"]["alpha_decay"] ** k
                value = mix * self._upper(pair[1], y) + (1.0 - mix) * value
            gradient = grad(value, y, create_graph="FOA" not in chain and k >= truncated)
            y = [v - self._definition.rate * g for v, g in zip(y, gradient, strict=True)]
            iterates.append(y)
        chosen = y
        if "PTT" in chain:
            chosen = max(iterates, key=lambda iterate: float(self._upper(pair[1], iterate).detach()))
        return list(grad(self._upper(pair[1], chosen), self._x)), [v.detach() for v in y]

    def _implicit(self, pair: tuple[dict[str, torch.Tensor], ...], y: Vector) -> tuple[Vector, Vector]:
        before = y
        for _ in range(self._task.lower_iters):
            before = y
            gradient = grad(self._lower(pair[0], y), y)
            y = _leaves([v - self._definition.rate * g for v, g in zip(y, gradient, strict=True)])
        b = list(grad(self._upper(pair[1], y), y))
        rate = self._definition.rate
        if self._task.chain == "FD":
            radius = 0.01 / _dot(b, b).sqrt()
            sides = []
            for sign in (1.0, -1.0):
                moved = [v.detach() + sign * radius * g for v, g in zip(before, b, strict=True)]
                sides.append(grad(self._lower(pair[0], moved), self._x))
            return [-rate * (p - m) / (2.0 * radius) for p, m in zip(*sides, strict=True)], y
        if self._task.chain == "IGA":
            at_end = grad(self._lower(pair[0], y), [*y, *self._x])
            by_y, by_x = list(at_end[: len(y)]), at_end[len(y) :]
            return [-_dot(b, by_y) / _dot(by_y, by_y) * g for g in by_x], y
        gradient = grad(self._lower(pair[0], y), y, create_graph=True)

        def product(v: Vector) -> Vector:
            return list(grad(gradient, y, v, retain_graph=True))

        if self._task.chain == "CG":
            q = _conjugate_gradient(product, b, self._task.iterations)
        else:
            q = _neumann(product, b, rate, self._task.iterations)
        return [-g for g in grad(gradient, self._x, q)], y


def _leaves(variables: Vector) -> Vector:
    return [v.detach().requires_grad_() for v in variables]


def _dot(a: Vector, b: Vector) -> torch.Tensor:
    return torch.stack([(p * q).sum() for p, q in zip(a, b, strict=True)]).sum()


def _axpy(a: torch.Tensor | float, x: Vector, y: Vector) -> Vector:
    return [a * p + q for p, q in zip(x, y, strict=True)]


def _conjugate_gradient(product: Callable[[Vector], Vector], b: Vector, iterations: int) -> Vector:
    q, r, d = [torch.zeros_like(v) for v in b], b, b
    square = _dot(r, r)
    for _ in range(iterations):
        image = product(d)
        step = square / _dot(d, image)
        q, r = _axpy(step, d, q), _axpy(-step, image, r)
        new = _dot(r, r)
        d, square = _axpy(new / square, d, r), new
    return q


def _neumann(product: Callable[[Vector], Vector], b: Vector, rate: float, iterations: int) -> Vector:
    q = term = [rate * v for v in b]
    for _ in range(iterations):
        term = _axpy(-rate, product(term), term)
        q = _axpy(1.0, term, q)
    return q


if __name__ == "__main__":
    serve(Torch, gpu_memory=gpu_memory)
