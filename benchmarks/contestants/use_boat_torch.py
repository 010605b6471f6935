"""boat-torch 1.1.1, which unrolls by higher, through its ``Problem.run_iter``."""

from __future__ import annotations

from typing import Any

from boat import Boat, configuration
import boat_torch
import numpy as np
from serve import Task, serve
import torch
from torch.nn.functional import cross_entropy
from torch_models import Upper, batches, finish, gpu_memory, network

_NAME = ""


def lower_loss(batch: dict[str, Any], ul_model: Any, ll_model: Any, **_: Any) -> torch.Tensor:
    """The lower objective, as boat-torch finds it by name."""
    out = ll_model(batch["data"])
    if _NAME == "maml":
        return cross_entropy(out, batch["target"])
    if _NAME == "l2":
        weight = next(iter(ll_model.parameters()))
        return cross_entropy(out, batch["target"]) + 0.5 * (ul_model.value.exp() * weight * weight).sum()
    return (cross_entropy(out, batch["target"], reduction="none") * ul_model.value.sigmoid()).mean()


def upper_loss(batch: dict[str, Any], ul_model: Any, ll_model: Any, **_: Any) -> torch.Tensor:
    """The upper objective."""
    return cross_entropy(ll_model(batch["data"]), batch["target"])


def gda_loss(ll_batch: dict[str, Any], ul_batch: dict[str, Any], ul_model: Any, ll_model: Any, **_: Any) -> Any:
    """The mixed objective of GDA."""
    alpha = ll_batch["alpha"]
    return alpha * upper_loss(ul_batch, ul_model, ll_model) + (1 - alpha) * lower_loss(ll_batch, ul_model, ll_model)


class BoatTorch(Boat):
    """See :class:`serve.Contestant`."""

    def __init__(self, task: Task) -> None:
        global _NAME
        _NAME = task.problem
        definition = task.definition()
        lower = network(definition, task.device)
        upper = lower if _NAME == "maml" else Upper(definition.upper[0]).to(task.device)
        config = configuration(task, definition, lower, upper, torch.optim.SGD)
        names = {"lower_level_loss": "lower_loss", "upper_level_loss": "upper_loss", "gda_loss": "gda_loss"}
        losses = {key: {"function": f"{__name__}.{name}"} for key, name in names.items()}
        train, val = batches(definition, task.device)
        feeds = (train, val) if _NAME == "maml" else (train[0], val[0])
        super().__init__(boat_torch.Problem(config, losses), config, feeds)

    def hypergradient(self) -> np.ndarray:
        """See :class:`serve.Contestant`."""
        found = np.concatenate([g.detach().cpu().numpy().ravel() for g in self.gradients()])
        for variable in self._config["upper_level_var"]:
            variable.grad = None
        return found

    def step(self) -> None:
        """See :class:`serve.Contestant`."""
        super().step()
        finish(self._config["device"])


if __name__ == "__main__":
    serve(BoatTorch, gpu_memory=gpu_memory)
