"""jboat: a trainer's whole outer step, from one ``on_step_end`` to the next."""

from __future__ import annotations

from jboat import BilevelTrainer, StopReason, TrainerState
from jboat.callbacks import Callback
from jboat_trainer import make_trainer
import jittor as jt
from jittor_kernels import gpu_memory, kernels
from jittor_models import Problem
import numpy as np
from serve import Contestant, Session, Task, serve


class Jboat(Contestant):
    """See :class:`serve.Contestant`."""

    def __init__(self, task: Task) -> None:
        self._turn = Turn()
        self._problem = p = Problem(task.definition())
        self._trainer = make_trainer(
            p,
            lower_iters=task.lower_iters,
            solver_config=task.solver_config,
            callbacks=[self._turn],
            device=task.device,
            tasks_together=task.together,
            **{name: value for name, value in task.operators.items() if value},
        )

    def hypergradient(self) -> np.ndarray:
        """See :class:`serve.Contestant`."""
        found = self._trainer.hypergradient(*self._problem.batches).gradients
        return np.concatenate([g.numpy().ravel() for g in found])

    def run(self, session: Session) -> None:
        """See :class:`serve.Contestant`."""
        if session.wants_step():
            self._turn.session = session
            lower, upper = ([b] if isinstance(b, list) else b for b in self._problem.batches)  # a list holds tasks
            self._trainer.fit(lower, upper, max_steps=1_000_000)


class Turn(Callback):
    """Ends a step, and waits for the command to go on."""

    rank = 3

    session: Session

    def on_step_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Report the step."""
        jt.sync_all(True)
        self.session.done()
        if not self.session.wants_step():
            state.request_stop(StopReason.CALLBACK)


if __name__ == "__main__":
    serve(Jboat, kernels, gpu_memory)
