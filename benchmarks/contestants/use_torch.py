"""Plain PyTorch: the loop that one would write by hand."""

from __future__ import annotations

import numpy as np
from problems import arrays
from serve import Contestant, Task, serve
import torch
from torch.nn.functional import cross_entropy


class Torch(Contestant):
    """See :class:`serve.Contestant`."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._arrays = arrays(task.problem)
        self._train, self._val = (
            (torch.from_numpy(data), torch.from_numpy(target).long())
            for data, target in (self._arrays.train, self._arrays.val)
        )
        self._x = torch.from_numpy(self._arrays.upper).requires_grad_()
        self._y = torch.from_numpy(self._arrays.weight)

    def hypergradient(self) -> np.ndarray:
        """See :class:`serve.Contestant`."""
        return self._compute()[0].numpy()

    def step(self) -> None:
        """See :class:`serve.Contestant`."""
        gradient, y = self._compute()
        with torch.no_grad():
            self._x -= self._arrays.upper_rate * gradient
        self._y = y.detach()

    def _lower(self, y: torch.Tensor) -> torch.Tensor:
        data, target = self._train
        if self._task.problem == "l2":
            return cross_entropy(data @ y.T, target) + 0.5 * (self._x.exp() * y * y).sum()
        return (cross_entropy(data @ y.T, target, reduction="none") * self._x.sigmoid()).mean()

    def _compute(self) -> tuple[torch.Tensor, torch.Tensor]:
        unroll = self._task.chain == "RAD"
        y = self._y.detach().requires_grad_()
        for _ in range(self._task.lower_iters):
            y = y - self._arrays.rate * torch.autograd.grad(self._lower(y), y, create_graph=unroll)[0]
            if not unroll:
                y = y.detach().requires_grad_()
        data, target = self._val
        value = cross_entropy(data @ y.T, target)
        if unroll:
            return torch.autograd.grad(value, self._x)[0], y
        b = torch.autograd.grad(value, y)[0]
        gradient = torch.autograd.grad(self._lower(y), y, create_graph=True)[0]

        def product(v: torch.Tensor) -> torch.Tensor:
            return torch.autograd.grad(gradient, y, v, retain_graph=True)[0]

        if self._task.chain == "CG":
            q, r, d = torch.zeros_like(b), b, b
            square = (r * r).sum()
            for _ in range(10):
                image = product(d)
                step = square / (d * image).sum()
                q, r = q + step * d, r - step * image
                new = (r * r).sum()
                d, square = r + new / square * d, new
        else:
            q = term = self._arrays.rate * b
            for _ in range(10):
                term = term - self._arrays.rate * product(term)
                q = q + term
        return -torch.autograd.grad(gradient, self._x, q)[0], y


if __name__ == "__main__":
    serve(Torch)
