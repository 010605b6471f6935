"""Plain Jittor: the loop that one would write by hand, RAD as one lazy graph, CG and NS with computed vectors."""

from __future__ import annotations

from collections.abc import Callable

import jboat  # noqa: F401  (starts Jittor)
import jittor as jt
from jittor_kernels import kernels
from jittor_models import Problem, upper
import numpy as np
from serve import Contestant, Task, serve

Product = Callable[[jt.Var], jt.Var]


class Jittor(Contestant):
    """See :class:`serve.Contestant`."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._p = Problem(task.problem)
        self._y = self._p.lower_model.weight.detach()
        self._x = self._p.upper_model.value.detach()

    def hypergradient(self) -> np.ndarray:
        """See :class:`serve.Contestant`."""
        return self._compute()[0].numpy().ravel()

    def step(self) -> None:
        """See :class:`serve.Contestant`."""
        gradient, y = self._compute()
        self._x = (self._x - self._p.arrays.upper_rate * gradient).detach()
        self._y = y.detach()
        jt.sync([self._x, self._y])
        jt.sync_all(True)

    def _compute(self) -> tuple[jt.Var, jt.Var]:
        p, x = self._p, self._x
        p.upper_model.value = x
        y = self._y
        for _ in range(self._task.lower_iters):
            p.lower_model.weight = y
            y = y - p.arrays.rate * jt.grad(p.lower(p.train, p.upper_model, p.lower_model), [y])[0]
            if self._task.chain != "RAD":
                y = y.detach()
                y.sync()
        p.lower_model.weight = y
        value = upper(p.val, p.upper_model, p.lower_model)
        if self._task.chain == "RAD":
            return jt.grad(value, [x])[0], y
        b = jt.grad(value, [y])[0].detach()
        gradient = jt.grad(p.lower(p.train, p.upper_model, p.lower_model), [y])[0]
        solve = self._conjugate_gradient if self._task.chain == "CG" else self._neumann
        q = solve(lambda v: jt.grad((gradient * v).sum(), [y])[0].detach(), b)
        return -jt.grad((gradient * q).sum(), [x])[0], y

    def _conjugate_gradient(self, product: Product, b: jt.Var) -> jt.Var:
        q, r, d = jt.zeros_like(b), b, b
        square = (r * r).sum().detach()
        for _ in range(10):
            image = product(d)
            step = square / (d * image).sum()
            q, r = (q + step * d).detach(), (r - step * image).detach()
            new = (r * r).sum().detach()
            d, square = (r + new / square * d).detach(), new
            jt.sync([q, r, d, square])
        return q

    def _neumann(self, product: Product, b: jt.Var) -> jt.Var:
        term = total = self._p.arrays.rate * b
        for _ in range(10):
            term = (term - self._p.arrays.rate * product(term)).detach()
            total = (total + term).detach()
            jt.sync([term, total])
        return total


if __name__ == "__main__":
    serve(Jittor, kernels)
