"""jboat: a trainer's whole outer step, from one ``on_step_end`` to the next."""

from __future__ import annotations

from typing import Any

from jboat import BilevelTrainer, StopReason, TrainerState, registry
from jboat.callbacks import Callback
import jittor as jt
from jittor_kernels import kernels
from jittor_models import Problem, upper
import numpy as np
from serve import Contestant, Session, Task, serve


class Jboat(Contestant):
    """See :class:`serve.Contestant`."""

    def __init__(self, task: Task) -> None:
        self._turn = Turn()
        self._problem = p = Problem(task.problem)
        first_order = task.chain in registry.operators("fo")
        operators: dict[str, Any] = {"fo_op": task.chain} if first_order else {"na_op": task.chain.split("+")}
        self._trainer = BilevelTrainer(
            p.lower_model,
            p.upper_model,
            p.lower,
            upper,
            ll_optimizer=jt.optim.SGD(p.lower_model.parameters(), p.arrays.rate),
            ul_optimizer=jt.optim.SGD(p.upper_model.parameters(), p.arrays.upper_rate),
            lower_iters=task.lower_iters,
            solver_config={"CG": {"k": 10, "tolerance": 0.0}},
            callbacks=[self._turn],
            **operators,
        )

    def hypergradient(self) -> np.ndarray:
        """See :class:`serve.Contestant`."""
        return self._trainer.hypergradient(self._problem.train, self._problem.val).gradients[0].numpy().ravel()

    def run(self, session: Session) -> None:
        """See :class:`serve.Contestant`."""
        if session.wants_step():
            self._turn.session = session
            self._trainer.fit(self._problem.train, self._problem.val, max_steps=1_000_000)


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
    serve(Jboat, kernels)
