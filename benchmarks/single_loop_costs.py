"""What a step of a single-loop method costs in units of the derivatives that it is made of.

A step is one of ``fit``, from the batches at hand to both levels' variables moved. The derivatives are those of the
same objectives, each computed alone: the gradient of F by x and y, that of f by y, and the products of its derivatives
by x and y with a vector, the graph of that gradient being kept; for F2SA the gradients of f and F by x and y. All are
measured in turn in one process, on the problems of ``peers.py``; medians.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
import statistics
import sys
import time

import jboat  # noqa: F401  (before Jittor)
from jboat import BilevelTrainer, autodiff
from jboat.callbacks import LambdaCallback
import jittor as jt

sys.path.insert(0, str(Path(__file__).parent / "contestants"))

import benchmark_problems
from jboat_trainer import make_trainer
from jittor_models import Problem, plain

ALLOWED = {"SOBA": 1.1, "SRBA": 2.0, "F2SA": 1.05}
"""SOBA in its three derivatives alone, SRBA in steps of SOBA, F2SA in three gradients alone."""


class Steps:
    """The steps of one trainer, a few at a time.

    Args:
        p: the problem.
        method: its ``sl_op``.
        options: of the method.
    """

    def __init__(self, p: Problem, method: str, **options: float) -> None:
        self.seconds: list[float] = []
        note = LambdaCallback(on_step_end=lambda trainer, state: self.seconds.append(state.metrics["time_step"]))
        self._batches = p.batches
        self._trainer: BilevelTrainer = make_trainer(
            p, sl_op=method, solver_config={method: options} if options else None, callbacks=[note]
        )

    def take(self, steps: int) -> None:
        """Take steps, and note what each took."""
        self._trainer.fit(*([batch] for batch in self._batches), max_steps=steps, check_second_order=False)


class Derivatives:
    """The derivatives at one point, each alone."""

    def __init__(self, p: Problem) -> None:
        self._p = p
        self._x, self._y = list(p.upper_model.parameters()), list(p.lower_model.parameters())
        self._v = [jt.ones_like(v).stop_grad() for v in self._y]
        jt.sync(self._v)
        train, val = p.batches
        self._kept: list[jt.Var] = []
        self.calls: dict[str, Callable[[], list[jt.Var]]] = {
            "gradient of F": lambda: autodiff.grad(self._value(plain, val), [*self._x, *self._y]),
            "gradient of f": lambda: autodiff.grad(self._value(p.lower, train), self._y),
            "products": lambda: autodiff.vjp(self._kept, [*self._x, *self._y], self._v),
            "gradient of f by both": lambda: autodiff.grad(self._value(p.lower, train), [*self._x, *self._y]),
        }
        self.seconds: dict[str, list[float]] = {name: [] for name in self.calls}

    def take(self, times: int) -> None:
        """Compute each some times, and note what each took."""
        for _ in range(times):
            self._kept = self.calls["gradient of f"]()
            jt.sync(self._kept)
            for name, call in self.calls.items():
                jt.sync_all(True)
                begun = time.perf_counter()
                jt.sync(call())
                jt.sync_all(True)
                self.seconds[name].append(time.perf_counter() - begun)

    def _value(self, objective: Callable[..., jt.Var], batch: dict[str, jt.Var]) -> jt.Var:
        return objective(batch, self._p.upper_model, self._p.lower_model)


def measured(name: str, turns: int, steps: int) -> dict[str, float]:
    """Milliseconds of steps and derivatives, medians.

    Args:
        name: of the problem.
        turns: how often each is measured.
        steps: how many at a time.
    """
    definition = benchmark_problems.make(name)
    methods = {
        "SOBA": Steps(Problem(definition), "SOBA"),
        "SRBA": Steps(Problem(definition), "SRBA", period=10**9),
        "F2SA": Steps(Problem(definition), "F2SA"),
    }
    derivatives = Derivatives(Problem(definition))
    for turn in range(turns + 1):
        for method in methods.values():
            method.take(steps)
        derivatives.take(steps)
        if turn == 0:  # everything is compiled
            for method in methods.values():
                method.seconds.clear()
            for seconds in derivatives.seconds.values():
                seconds.clear()
    found = {key: method.seconds for key, method in methods.items()} | derivatives.seconds
    return {key: 1000 * statistics.median(seconds) for key, seconds in found.items()}


def ratios(ms: dict[str, float]) -> dict[str, float]:
    """Each method in units of what it is held against."""
    return {
        "SOBA": ms["SOBA"] / (ms["gradient of F"] + ms["gradient of f"] + ms["products"]),
        "SRBA": ms["SRBA"] / ms["SOBA"],
        "F2SA": ms["F2SA"] / (ms["gradient of F"] + 2 * ms["gradient of f by both"]),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", default=["l2", "mlp"])
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()
    for name in args.problems:
        ms = measured(name, args.turns, args.steps)
        print(f"{name}: " + ", ".join(f"{key} {value:.2f} ms" for key, value in ms.items()))
        for method, ratio in ratios(ms).items():
            print(f"{name}: {method} {ratio:.2f} (at most {ALLOWED[method]})")


if __name__ == "__main__":
    main()
