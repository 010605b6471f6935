"""What a hypergradient costs in units of what it is made of: RAD in plain lower steps, a CG iteration in gradients.

All are measured in turn in one process, on the problem of ``peers.py``; medians.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
import statistics
import sys
import time

import jboat  # noqa: F401  (before Jittor)
import jittor as jt

sys.path.insert(0, str(Path(__file__).parent / "contestants"))

import benchmark_problems
from jboat_trainer import make_trainer
from jittor_models import Problem
from use_jittor import Functional

FEW, MANY = 10, 30


def hypergradient(p: Problem, chain: str, lower_iters: int, iterations: int) -> Callable[[], object]:
    """A call that computes one hypergradient."""
    trainer = make_trainer(
        p,
        na_op=[chain],
        lower_iters=lower_iters,
        solver_config={"CG": {"k": iterations, "tolerance": 0.0}} if chain == "CG" else {},
    )
    return lambda: trainer.hypergradient(*p.batches)


def lower_steps(p: Problem, count: int) -> Callable[[], object]:
    """A call that takes plain gradient steps, each computed before the next."""

    def run() -> object:
        y = [v.detach() for v in p.lower_model.parameters()]
        for _ in range(count):
            gradient = jt.grad(p.lower(p.train[0], p.upper_model, Functional(p.lower_model, y)), y)
            y = [(v - p.definition.rate * g).detach() for v, g in zip(y, gradient, strict=True)]
            jt.sync(y)
        return y

    return run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", default=["l2", "cleaning"])
    parser.add_argument("--repeat", type=int, default=20)
    args = parser.parse_args()
    benchmark_problems.PENALTY = -16.0  # so ill-conditioned that CG does not end early
    for name in args.problems:
        p = Problem(benchmark_problems.make(name))
        calls = {
            "steps": lower_steps(p, 10),
            "rad": hypergradient(p, "RAD", 10, 0),
            "few": hypergradient(p, "CG", 1, FEW),
            "many": hypergradient(p, "CG", 1, MANY),
        }
        seconds: dict[str, list[float]] = {key: [] for key in calls}
        for number in range(args.repeat + 2):
            for key, call in calls.items():
                jt.sync_all(True)
                begun = time.perf_counter()
                call()
                jt.sync_all(True)
                if number > 1:
                    seconds[key].append(time.perf_counter() - begun)
        ms = {key: 1000 * statistics.median(values) for key, values in seconds.items()}
        iteration = (ms["many"] - ms["few"]) / (MANY - FEW)
        print(f"{name}: RAD with K = 10 {ms['rad']:.1f} ms, 10 plain lower steps {ms['steps']:.1f} ms", end=", ")
        print(f"ratio {ms['rad'] / ms['steps']:.2f} (at most 5)")
        print(f"{name}: a CG iteration {iteration:.2f} ms, a gradient {ms['steps'] / 10:.2f} ms", end=", ")
        print(f"ratio {10 * iteration / ms['steps']:.2f} (at most 3)")


if __name__ == "__main__":
    main()
