"""What remat_every and checkpoints save: peak memory and time of RAD against K, beside graphs that are all kept.

Each measurement runs in a process of its own. Its memory is the growth of the peak resident set over that of the same
process after hypergradients with K = 1 and K = 2, so that Jittor itself, the kernels and the data do not count.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

from jboat import BilevelTrainer
from jboat.levels import Objective
import jittor as jt
from jittor import nn
import numpy as np

RATE, CLASSES = 0.05, 10
SAMPLES = {"linear": 500, "cnn": 32}
MODES = {
    "graph": {},
    "remat": {"remat_every": 1},
    "few": {"checkpoints": 20},
    "auto": {"checkpoints": "auto"},
}


class Weights(jt.Module):
    """One logarithmic weight per training sample."""

    def __init__(self, samples: int) -> None:
        self.log = jt.zeros((samples,))


def lower(batch: dict[str, Any], ul_model: jt.Module, ll_model: Any) -> jt.Var:
    """Weighted training loss."""
    losses = nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"], reduction="none")
    return (losses * ul_model.log.exp()).mean()


def upper(batch: dict[str, Any], ul_model: jt.Module, ll_model: Any) -> jt.Var:
    """Validation loss."""
    return nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"])


def network(name: str) -> jt.Module:
    """A linear classifier of 100 features; or three convolutions and a linear head, for 1 x 16 x 16 images."""
    if name == "linear":
        return nn.Linear(100, CLASSES)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(16, 16, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Conv2d(16, 16, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(16 * 4 * 4, CLASSES),
    )


def peak_mb() -> float:
    """The largest resident set of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def trainer_of(model: jt.Module, weights: Weights, objective: Objective, **settings: Any) -> BilevelTrainer:
    """A trainer by RAD with plain gradient descent at both levels."""
    return BilevelTrainer(
        model,
        weights,
        objective,
        upper,
        ll_optimizer=jt.optim.SGD(model.parameters(), RATE),
        ul_optimizer=jt.optim.SGD(weights.parameters(), 0.1),
        **settings,
    )


def measure(name: str, lower_iters: int, section: dict[str, Any]) -> dict[str, Any]:
    """Peak memory and time of one hypergradient in this process, and the hypergradient."""
    jt.set_global_seed(0)
    rng = np.random.default_rng(0)
    samples = SAMPLES[name]
    shape = (samples, 100) if name == "linear" else (samples, 1, 16, 16)

    def batch() -> dict[str, Any]:
        return {
            "data": rng.normal(size=shape).astype("float32"),
            "target": rng.integers(0, CLASSES, samples).astype("int32"),
        }

    train, val, model, weights = batch(), batch(), network(name), Weights(samples)

    def hypergradient(steps: int) -> np.ndarray:
        trainer = trainer_of(model, weights, lower, lower_iters=steps, solver_config={"RAD": section})
        return trainer.hypergradient(train, val).gradients[0].numpy()

    for steps in (1, 2):
        hypergradient(steps)
    before, begun = peak_mb(), time.perf_counter()
    value = hypergradient(lower_iters)
    return {"mb": peak_mb() - before, "seconds": time.perf_counter() - begun, "value": value.tolist()}


def main() -> None:
    """Measure every mode at every K, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(SAMPLES), default="cnn", help="default: %(default)s")
    parser.add_argument("--lower-iters", type=int, nargs="+", default=[50, 200, 1000], help="K (default: %(default)s)")
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=["graph", "remat", "few"])
    parser.add_argument("--most-graphs", type=int, default=1000, help="leave 'graph' out above this K")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        print(json.dumps(measure(args.model, int(args.child[0]), MODES[args.child[1]])))
        return
    print(f"{args.model}, {SAMPLES[args.model]} samples\n")
    print("| K | mode | memory | time | from the first mode |\n" + "| --- " * 5 + "|")
    for steps in args.lower_iters:
        exact = None
        for mode in args.modes:
            if mode == "graph" and steps > args.most_graphs:
                continue
            command = [sys.executable, __file__, "--model", args.model, "--child", str(steps), mode]
            found = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
            value = np.array(found["value"])
            exact = value if exact is None else exact
            apart = np.linalg.norm(value - exact) / np.linalg.norm(exact)
            numbers = f"{found['mb']:.1f} MB | {found['seconds']:.2f} s | {apart:.1e}"
            print(f"| {steps} | {MODES[mode] or 'graphs kept'} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
