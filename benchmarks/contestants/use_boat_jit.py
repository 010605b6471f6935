"""boat-jit 1.1.1 through its ``Problem.run_iter``."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import jboat  # noqa: F401  (starts Jittor)

# isort: split
import boat_jit
import jittor as jt
from jittor_kernels import kernels
from jittor_models import Problem, upper
import numpy as np
from serve import Contestant, Task, serve

_PROBLEM: Any = None


def lower_loss(batch: dict[str, Any], ul_model: jt.Module, ll_model: Any, **kwargs: Any) -> jt.Var:
    """The lower objective, as boat-jit finds it by name; it hands parameters over as ``params``."""
    return _PROBLEM.lower(batch, ul_model, ll_model)


def upper_loss(batch: dict[str, Any], ul_model: jt.Module, ll_model: Any, **kwargs: Any) -> jt.Var:
    """The upper objective."""
    return upper(batch, ul_model, ll_model)


class BoatJit(Contestant):
    """See :class:`serve.Contestant`."""

    def __init__(self, task: Task) -> None:
        global _PROBLEM
        _PROBLEM = self._p = p = Problem(task.problem)
        first_order = task.chain in ("VFO", "MESO", "PGDO", "VSO")
        self._config = {
            "fo_op": task.chain if first_order else None,
            "gm_op": None if first_order else ["NGD"],
            "na_op": None if first_order else task.chain.split("+"),
            "lower_iters": task.lower_iters,
            "lower_level_model": p.lower_model,
            "upper_level_model": p.upper_model,
            "lower_level_var": list(p.lower_model.parameters()),
            "upper_level_var": list(p.upper_model.parameters()),
            "lower_level_opt": jt.optim.SGD(list(p.lower_model.parameters()), p.arrays.rate),
            "upper_level_opt": jt.optim.SGD(list(p.upper_model.parameters()), p.arrays.upper_rate),
            "accumulate_grad": False,
            "device": "cpu",
            "copy_last_param": True,
            "return_grad": False,
            "loss_log_path": os.path.join(tempfile.mkdtemp(), "losses.json"),
            "GDA": {"alpha_init": 0.0, "alpha_decay": 0.0},
            "RGT": {"truncate_iter": 0},
            "CG": {"tolerance": 0.0, "k": 10},
            "FD": {"r": 0.01},
            "VFO": {"y_hat_lr": 0.1, "eta": 0.5, "u1": 0.5},
            "PGDO": {
                "y_hat_lr": 0.1,
                "gamma_init": 0.1,
                "gamma_max": 1.0,
                "gamma_argmax_step": 100,
                "updata_y_ahead": False,
                "penalty": "value",
            },
            "MESO": {"eta": 0.1, "gamma_1": 1.0, "c0": 0.5, "y_hat_lr": 0.1},
        }
        losses = {
            "lower_level_loss": {"function": f"{__name__}.lower_loss"},
            "upper_level_loss": {"function": f"{__name__}.upper_loss"},
        }
        self._optimizer = boat_jit.Problem(self._config, losses)
        self._optimizer.build_ll_solver()
        self._optimizer.build_ul_solver()
        self._count = 0

    def hypergradient(self) -> np.ndarray:
        """See :class:`serve.Contestant`."""
        self._config.update(return_grad=True, copy_last_param=False)
        gradients, _ = self._optimizer.run_iter(self._p.train, self._p.val, current_iter=0)
        self._config.update(return_grad=False, copy_last_param=True)
        return gradients[0].numpy().ravel()

    def step(self) -> None:
        """See :class:`serve.Contestant`."""
        self._optimizer.run_iter(self._p.train, self._p.val, current_iter=self._count)
        self._count += 1
        jt.sync_all(True)


if __name__ == "__main__":
    serve(BoatJit, kernels)
