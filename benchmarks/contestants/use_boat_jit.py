"""boat-jit 1.1.1 through its ``Problem.run_iter``."""

from __future__ import annotations

from typing import Any

import jboat  # noqa: F401  (starts Jittor)

# isort: split
from boat import Boat, configuration
import boat_jit
import jittor as jt
from jittor_kernels import gpu_memory, kernels
from jittor_models import Problem, mixed, plain
import numpy as np
from serve import Task, serve

_PROBLEM: Any = None


def lower_loss(batch: dict[str, Any], ul_model: jt.Module, ll_model: Any, **kwargs: Any) -> jt.Var:
    """The lower objective, as boat-jit finds it by name."""
    return _PROBLEM.lower(batch, ul_model, ll_model)


def upper_loss(batch: dict[str, Any], ul_model: jt.Module, ll_model: Any, **kwargs: Any) -> jt.Var:
    """The upper objective."""
    return plain(batch, ul_model, ll_model)


def gda_loss(
    ll_batch: dict[str, Any], ul_batch: dict[str, Any], ul_model: jt.Module, ll_model: Any, **_: Any
) -> jt.Var:
    """The mixed objective of GDA."""
    return mixed(ll_batch, ul_batch, ul_model, ll_model)


class BoatJit(Boat):
    """See :class:`serve.Contestant`."""

    def __init__(self, task: Task) -> None:
        global _PROBLEM
        jt.flags.use_cuda = int(task.device == "cuda")
        _PROBLEM = p = Problem(task.definition())
        config = configuration(task, p.definition, p.lower_model, p.upper_model, jt.optim.SGD)
        names = {"lower_level_loss": "lower_loss", "upper_level_loss": "upper_loss", "gda_loss": "gda_loss"}
        losses = {key: {"function": f"{__name__}.{name}"} for key, name in names.items()}
        super().__init__(boat_jit.Problem(config, losses), config, p.batches)

    def hypergradient(self) -> np.ndarray:
        """See :class:`serve.Contestant`."""
        return np.concatenate([g.numpy().ravel() for g in self.gradients()])

    def step(self) -> None:
        """See :class:`serve.Contestant`."""
        super().step()
        jt.sync_all(True)


if __name__ == "__main__":
    serve(BoatJit, kernels, gpu_memory)
