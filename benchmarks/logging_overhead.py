"""What the trainer and its loggers add to a step: ``fit`` with every step logged beside a bare loop of its operators.

The bare loop runs the same two chains and the same optimizers' steps with no trainer, callback, check or metric. They
take steps in turn in one process on the same arrays. A second bare loop, in turn with both, is the control: how far its
ratio is from 1 is how far the other ratio can be trusted. The result is the median difference of neighbouring steps.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import io
import statistics
import tempfile
import time
from typing import Any

from jboat import BilevelTrainer, TrainerState, Trajectory
from jboat.callbacks import Callback, CSVLogger, ProgressBar, TensorBoardLogger
from jboat.gm_ol import makes_functional_dynamical_system
from jboat.na_ol import makes_functional_na_operation
import jittor as jt
from l2_problem import RATE, batches, lower, models, upper


def bare_loop(train: dict[str, Any], val: dict[str, Any], lower_iters: int) -> Callable[[], None]:
    """A function that takes an outer step with the operators alone."""
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

    def step() -> None:
        trajectory = Trajectory(model, ll_var, ll_optimizer)
        feeds = {"ll_feed_dict": train, "ul_feed_dict": val, "auxiliary_model": trajectory}
        dynamics.optimize(**feeds)
        gradients = hypergradient.compute_gradients(**feeds)[-1]["hyper_gradient"]
        for variable, value in zip(ll_var, trajectory.parameters(), strict=True):
            variable.update(value)
        ul_optimizer.step((ul_var[0] * gradients[0]).sum())
        jt.sync(ul_var)

    return step


class InTurn(Callback):
    """Times the step that ends, then takes and times those of the bare loops, which change places every time."""

    rank = 3

    def __init__(self, bare: Callable[[], None], control: Callable[[], None]) -> None:
        self._loops = [bare, control]
        self._begun = 0.0
        self.logged: list[float] = []
        self.bare: tuple[list[float], list[float]] = ([], [])

    def on_step_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """All other callbacks have run."""
        jt.sync_all(True)
        elapsed = [time.perf_counter() - self._begun]
        for i in (0, 1) if state.step % 2 else (1, 0):
            begun = time.perf_counter()
            self._loops[i]()
            jt.sync_all(True)
            elapsed.insert(1 if i == 0 else len(elapsed), time.perf_counter() - begun)
        if state.step > 3:
            for times, seconds in zip((self.logged, *self.bare), elapsed, strict=True):
                times.append(1000 * seconds)
        self._begun = time.perf_counter()


def difference(times: list[float], bare: list[float]) -> float:
    """The median difference of neighbouring steps, in percent of a bare one."""
    return 100 * statistics.median(t - b for t, b in zip(times, bare, strict=True)) / statistics.median(bare)


def main() -> None:
    """Run and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="outer steps of each program (default: %(default)s)")
    parser.add_argument("--lower-iters", type=int, default=10, help="K (default: %(default)s)")
    args = parser.parse_args()
    train, val = batches()
    model, penalties = models()
    timer = InTurn(*(bare_loop(train, val, args.lower_iters) for _ in range(2)))
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
    bare, control = timer.bare
    print(f"bare    {statistics.median(bare):8.2f} ms a step")
    print(f"control {statistics.median(control):8.2f} ms a step, {difference(control, bare):+.1f}%")
    print(f"logged  {statistics.median(timer.logged):8.2f} ms a step, {difference(timer.logged, bare):+.1f}%")


if __name__ == "__main__":
    main()
