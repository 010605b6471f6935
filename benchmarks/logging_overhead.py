"""What the trainer and its loggers add to a step: ``fit`` with every step logged beside a bare loop of its operators.

The bare loop runs the same two chains and the same optimizers' steps with no trainer, callback, check or metric. They
take steps in turn in one process; the result is the median ratio of neighbouring steps' times.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import io
import statistics
import tempfile
import time

from jboat import BilevelTrainer, TrainerState, Trajectory
from jboat.callbacks import Callback, CSVLogger, ProgressBar, TensorBoardLogger
from jboat.gm_ol import makes_functional_dynamical_system
from jboat.na_ol import makes_functional_na_operation
import jittor as jt
from l2_problem import RATE, batches, lower, models, upper


def bare_loop(lower_iters: int) -> Callable[[int], None]:
    """A function that takes so many outer steps with the operators alone."""
    train, val = batches()
    model, penalties = models()
    ll_var, ul_var = list(model.parameters()), list(penalties.parameters())
    ll_optimizer, ul_optimizer = jt.optim.SGD(ll_var, RATE), jt.optim.SGD(ul_var, 0.1)
    levels = {
        "ll_objective": lower,
        "ul_objective": upper,
        "ll_model": model,
        "ul_model": penalties,
        "solver_config": {"gm_op": ["NGD"], "na_op": ["RAD"], "lower_level_opt": ll_optimizer},
    }
    dynamics = makes_functional_dynamical_system(["NGD"], lower_loop=lower_iters, **levels)
    hypergradient = makes_functional_na_operation(["RAD"], ll_var=ll_var, ul_var=ul_var, **levels)

    def run(steps: int) -> None:
        for _ in range(steps):
            trajectory = Trajectory(model, ll_var, ll_optimizer)
            feeds = {"ll_feed_dict": train, "ul_feed_dict": val, "auxiliary_model": trajectory}
            dynamics.optimize(**feeds)
            gradients = hypergradient.compute_gradients(**feeds)[-1]["hyper_gradient"]
            for variable, value in zip(ll_var, trajectory.parameters(), strict=True):
                variable.update(value)
            ul_optimizer.step((ul_var[0] * gradients[0]).sum())
            jt.sync(ul_var)

    return run


class InTurn(Callback):
    """Times the step that ends, then takes and times a bare one."""

    rank = 3

    def __init__(self, bare: Callable[[int], None]) -> None:
        self._bare = bare
        self._begun = 0.0
        self.logged: list[float] = []
        self.bare: list[float] = []

    def on_step_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """All other callbacks have run."""
        jt.sync_all(True)
        ended = time.perf_counter()
        self._bare(1)
        jt.sync_all(True)
        now = time.perf_counter()
        if state.step > 3:
            self.logged.append(1000 * (ended - self._begun))
            self.bare.append(1000 * (now - ended))
        self._begun = time.perf_counter()


def main() -> None:
    """Run and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="outer steps of each program (default: %(default)s)")
    parser.add_argument("--lower-iters", type=int, default=10, help="K (default: %(default)s)")
    args = parser.parse_args()
    train, val = batches()
    model, penalties = models()
    timer = InTurn(bare_loop(args.lower_iters))
    with tempfile.TemporaryDirectory() as folder:
        trainer = BilevelTrainer(
            model,
            penalties,
            lower,
            upper,
            ll_optimizer=jt.optim.SGD(list(model.parameters()), RATE),
            ul_optimizer=jt.optim.SGD(list(penalties.parameters()), 0.1),
            lower_iters=args.lower_iters,
            callbacks=[ProgressBar(io.StringIO(), disable=False), CSVLogger(), TensorBoardLogger(), timer],
            logger_dir=folder,
        )
        trainer.fit(train, val, max_steps=args.steps)
    ratio = statistics.median(logged / bare for logged, bare in zip(timer.logged, timer.bare, strict=True))
    print(f"bare    {statistics.median(timer.bare):8.2f} ms a step")
    print(f"logged  {statistics.median(timer.logged):8.2f} ms a step")
    print(f"the trainer and its loggers cost {100 * (ratio - 1):+.1f}%")


if __name__ == "__main__":
    main()
