"""Plain PyTorch, all tasks of MAML at once by ``torch.func.vmap``."""

from __future__ import annotations

import numpy as np
from serve import Contestant, Task, serve
import torch
from torch.func import grad, vmap
from torch.nn.functional import cross_entropy
from torch_models import batches, finish, gpu_memory, logits

Weights = tuple[torch.Tensor, ...]


class TorchVmap(Contestant):
    """See :class:`serve.Contestant`."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._definition = definition = task.definition()
        self._x = tuple(torch.from_numpy(x.copy()).to(task.device) for x in definition.upper)
        self._batches = [
            {name: torch.stack([batch[name] for batch in of_level]) for name in ("data", "target")}
            for of_level in batches(definition, task.device)
        ]
        of_all = vmap(self._upper_loss, in_dims=(None, 0, 0, 0, 0))
        self._gradient = grad(lambda x, *arrays: of_all(x, *arrays).mean())

    def _upper_loss(
        self, x: Weights, data: torch.Tensor, target: torch.Tensor, query: torch.Tensor, wanted: torch.Tensor
    ) -> torch.Tensor:
        """F after the lower steps of one task."""
        gradient = grad(lambda weights: cross_entropy(logits(weights, data), target))
        y, constant = x, "FOA" in self._task.chain
        for _ in range(self._task.lower_iters):
            found = gradient(y)
            y = tuple(
                v - self._definition.rate * (g.detach() if constant else g) for v, g in zip(y, found, strict=True)
            )
        return cross_entropy(logits(y, query), wanted)

    def _compute(self) -> Weights:
        lower, upper = self._batches
        found: Weights = self._gradient(self._x, lower["data"], lower["target"], upper["data"], upper["target"])
        return found

    def hypergradient(self) -> np.ndarray:
        """See :class:`serve.Contestant`."""
        return np.concatenate([g.cpu().numpy().ravel() for g in self._compute()])

    def step(self) -> None:
        """See :class:`serve.Contestant`."""
        self._x = tuple(x - self._definition.upper_rate * g for x, g in zip(self._x, self._compute(), strict=True))
        finish(self._task.device)


if __name__ == "__main__":
    serve(TorchVmap, gpu_memory=gpu_memory)
