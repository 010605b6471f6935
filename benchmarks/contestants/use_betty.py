"""betty-ml: an Engine with two ImplicitProblems."""

from __future__ import annotations

from betty.configs import Config, EngineConfig
from betty.engine import Engine
from betty.problems import ImplicitProblem
import numpy as np
from serve import Contestant, Task, serve
import torch
from torch_models import Network, Upper, batches, finish, gpu_memory, lower_value, upper_value

TYPES = {"CG": "cg", "NS": "neumann", "FD": "darts"}


class Lower(ImplicitProblem):
    """The lower level."""

    name_of_problem: str

    def training_step(self, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """The lower objective."""
        data, target = batch
        feed = {"data": data, "target": target}
        return lower_value(self.name_of_problem, feed, self.outer.module.value, list(self.module.parameters()))


class Outer(ImplicitProblem):
    """The upper level."""

    def training_step(self, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """The upper objective."""
        data, target = batch
        return upper_value({"data": data, "target": target}, list(self.lower.module.parameters()))


class Betty(Contestant):
    """See :class:`serve.Contestant`."""

    def __init__(self, task: Task) -> None:
        definition = task.definition()
        rate = definition.rate
        train, val = ([(b["data"], b["target"]) for b in level] for level in batches(definition, task.device))
        network, upper = Network(definition.weights).to(task.device), Upper(definition.upper[0]).to(task.device)
        config = Config(
            type=TYPES[task.chain],
            unroll_steps=task.lower_iters,
            cg_iterations=task.iterations,
            neumann_iterations=task.iterations,
            neumann_alpha=rate,
            darts_alpha=0.01,
        )
        Lower.name_of_problem = task.problem
        lower = Lower("lower", config, network, torch.optim.SGD(network.parameters(), rate), None, train)
        sgd = torch.optim.SGD(upper.parameters(), definition.upper_rate)
        outer = Outer("outer", Config(), upper, sgd, None, val)
        self._upper = upper
        self._device = task.device
        self._lower_iters = task.lower_iters
        engine = EngineConfig(train_iters=1, valid_step=1_000_000)
        dependencies = {"u2l": {outer: [lower]}, "l2u": {lower: [outer]}}
        self._engine = Engine([lower, outer], engine, dependencies)
        self._engine.train()

    def hypergradient(self) -> np.ndarray:
        """What the first step subtracts from the upper variable, by its rate; everything is put back."""
        modules = [problem.module for problem in self._engine.problems]
        states = [{name: value.clone() for name, value in module.state_dict().items()} for module in modules]
        group = self._engine.problems[1].optimizer.param_groups[0]
        rate, group["lr"] = group["lr"], 1e6  # so large that rounding of the variable does not matter
        self.step()
        moved = self._upper.value.detach().clone()
        group["lr"] = rate
        for module, state in zip(modules, states, strict=True):
            module.load_state_dict(state)
        return ((self._upper.value.detach() - moved) / 1e6).cpu().numpy().ravel()

    def step(self) -> None:
        """See :class:`serve.Contestant`."""
        for _ in range(self._lower_iters):
            self._engine.global_step += 1
            self._engine.train_step()
        finish(self._device)


if __name__ == "__main__":
    serve(Betty, gpu_memory=gpu_memory)
