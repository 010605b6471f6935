"""TorchOpt's differentiable SGD, ``MetaSGD``, in a loop as its documentation shows it."""

from __future__ import annotations

import numpy as np
from serve import Contestant, Task, serve
import torch
from torch_models import Network, Upper, batches, finish, gpu_memory, lower_value, upper_value
import torchopt


class TorchOpt(Contestant):
    """See :class:`serve.Contestant`."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._definition = definition = task.definition()
        self._pairs = list(zip(*batches(definition, task.device), strict=True))
        self._maml = task.problem == "maml"
        self._network = Network(definition.weights).to(task.device)
        self._upper = self._network if self._maml else Upper(definition.upper[0]).to(task.device)
        self._inner = torchopt.MetaSGD(self._network, lr=definition.rate)
        self._outer = torchopt.SGD(list(self._upper.parameters()), lr=definition.upper_rate)

    def hypergradient(self) -> np.ndarray:
        """See :class:`serve.Contestant`."""
        start = torchopt.extract_state_dict(self._network, by="reference")
        variables = list(self._upper.parameters())
        found = torch.autograd.grad(self._unrolled(), variables)
        torchopt.recover_state_dict(self._network, start)
        return np.concatenate([g.cpu().numpy().ravel() for g in found])

    def step(self) -> None:
        """See :class:`serve.Contestant`."""
        start = torchopt.extract_state_dict(self._network, by="reference")
        loss = self._unrolled()
        if self._maml:
            torchopt.recover_state_dict(self._network, start)
        self._outer.zero_grad()
        loss.backward()
        self._outer.step()
        if not self._maml:
            torchopt.stop_gradient(self._network)
        finish(self._task.device)

    def _unrolled(self) -> torch.Tensor:
        start = torchopt.extract_state_dict(self._network, by="reference")
        state = torchopt.extract_state_dict(self._inner, by="reference")
        losses = []
        for number, (lower, upper) in enumerate(self._pairs):
            if number:
                torchopt.recover_state_dict(self._network, start)
            torchopt.recover_state_dict(self._inner, state)
            for _ in range(self._task.lower_iters):
                x = None if self._maml else self._upper.value
                self._inner.step(lower_value(self._task.problem, lower, x, list(self._weights())))
            losses.append(upper_value(upper, list(self._weights())))
        return torch.stack(losses).mean()

    def _weights(self) -> list[torch.Tensor]:
        return [self._network.weights[i] for i in range(len(self._definition.weights))]


if __name__ == "__main__":
    serve(TorchOpt, gpu_memory=gpu_memory)
