"""What boat-jit and boat-torch are told, which take the same configuration."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from benchmark_problems import Problem
from serve import Contestant, Task

# sections that BOAT reads whether their operator runs or not
ALWAYS: dict[str, dict[str, Any]] = {
    "GDA": {"alpha_init": 0.0, "alpha_decay": 0.0},
    "RGT": {"truncate_iter": 0},
    "DI": {"lr": 0.1},
}


def configuration(task: Task, definition: Problem, lower: Any, upper: Any, sgd: Any) -> dict[str, Any]:
    """BOAT's ``boat_config`` for a task, with the two models and the library's SGD."""
    sections = {**ALWAYS, **task.solver_config}
    if "PGDO" in sections:
        # boat-jit spells the first, boat-torch the second; both call the value penalty a difference
        sections["PGDO"].update(updata_y_ahead=False, update_y_ahead=False, penalty="difference")
    if "VFO" in sections:
        sections["VFO"]["eta"] = 0.5
    if "MESO" in sections:
        sections["MESO"]["y_hat_lr"] = definition.rate
    return {
        **task.operators,
        **sections,
        "lower_iters": task.lower_iters,
        "lower_level_model": lower,
        "upper_level_model": upper,
        "lower_level_var": list(lower.parameters()),
        "upper_level_var": list(upper.parameters()),
        "lower_level_opt": sgd(list(lower.parameters()), definition.rate),
        "upper_level_opt": sgd(list(upper.parameters()), definition.upper_rate),
        "accumulate_grad": definition.name == "maml",
        "fo_ol_batch_input": False,
        "device": task.device,
        "copy_last_param": definition.name != "maml" and "DI" not in task.chain,
        "return_grad": False,
        "loss_log_path": os.path.join(tempfile.mkdtemp(), "losses.json"),
    }


class Boat(Contestant):
    """BOAT's ``Problem`` on one task; subclasses build it and turn a gradient into numpy."""

    def __init__(self, problem: Any, config: dict[str, Any], batches: tuple[Any, Any]) -> None:
        self._problem = problem
        self._config = config
        self._batches = batches
        self._problem.build_ll_solver()
        self._problem.build_ul_solver()
        self._count = 0

    def gradients(self) -> list[Any]:
        """The hypergradient at the start, averaged over tasks, which BOAT adds up."""
        before = self._config["copy_last_param"]
        self._config.update(return_grad=True, copy_last_param=False)
        found, _ = self._problem.run_iter(*self._batches, current_iter=0)
        self._config.update(return_grad=False, copy_last_param=before)
        tasks = len(self._batches[0]) if self._config["accumulate_grad"] else 1
        return [gradient / tasks for gradient in found]

    def step(self) -> None:
        """See :class:`serve.Contestant`."""
        self._problem.run_iter(*self._batches, current_iter=self._count)
        self._count += 1
