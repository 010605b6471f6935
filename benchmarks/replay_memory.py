"""What remat_every saves: peak memory of RAD on a 3-layer CNN, whole graphs kept beside steps rebuilt.

Each mode runs in a process of its own. Its memory is the growth of the peak resident set over that of the same process
after hypergradients with K = 1 and K = 2, so that Jittor itself and the kernels do not count.
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
import jittor as jt
from jittor import nn
import numpy as np

RATE, IMAGES, CLASSES = 0.05, 32, 10


class Weights(jt.Module):
    """One logarithmic weight per training image."""

    def __init__(self) -> None:
        self.log = jt.zeros((IMAGES,))


def lower(batch: dict[str, Any], ul_model: jt.Module, ll_model: Any) -> jt.Var:
    """Weighted training loss."""
    losses = nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"], reduction="none")
    return (losses * ul_model.log.exp()).mean()


def upper(batch: dict[str, Any], ul_model: jt.Module, ll_model: Any) -> jt.Var:
    """Validation loss."""
    return nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"])


def network() -> jt.Module:
    """Three convolutions and a linear head, for 1 x 16 x 16 images."""
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


def measure(lower_iters: int, remat_every: int) -> dict[str, Any]:
    """Peak memory and time of one hypergradient in this process, and the hypergradient."""
    jt.set_global_seed(0)
    rng = np.random.default_rng(0)

    def batch() -> dict[str, Any]:
        return {
            "data": rng.normal(size=(IMAGES, 1, 16, 16)).astype("float32"),
            "target": rng.integers(0, CLASSES, IMAGES).astype("int32"),
        }

    train, val, model, weights = batch(), batch(), network(), Weights()

    def hypergradient(steps: int) -> np.ndarray:
        trainer = BilevelTrainer(
            model,
            weights,
            lower,
            upper,
            ll_optimizer=jt.optim.SGD(model.parameters(), RATE),
            ul_optimizer=jt.optim.SGD(weights.parameters(), 0.1),
            lower_iters=steps,
            solver_config={"RAD": {"remat_every": remat_every}},
        )
        return trainer.hypergradient(train, val).gradients[0].numpy()

    for steps in (1, 2):
        hypergradient(steps)
    before, begun = peak_mb(), time.perf_counter()
    value = hypergradient(lower_iters)
    return {"mb": peak_mb() - before, "seconds": time.perf_counter() - begun, "value": value.tolist()}


def main() -> None:
    """Run both modes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lower-iters", type=int, default=200, help="K (default: %(default)s)")
    parser.add_argument("--remat-every", type=int, default=1, help="steps rebuilt at once (default: %(default)s)")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        print(json.dumps(measure(args.lower_iters, args.child)))
        return
    results = []
    for mode in (0, args.remat_every):
        command = [sys.executable, __file__, "--lower-iters", str(args.lower_iters), "--child", str(mode)]
        results.append(json.loads(subprocess.check_output(command, text=True).splitlines()[-1]))
    graph, replay = results
    exact = np.array(graph["value"])
    apart = np.linalg.norm(np.array(replay["value"]) - exact) / np.linalg.norm(exact)
    print(f"K = {args.lower_iters}, 3-layer CNN, {IMAGES} images of 16 x 16")
    for name, result in ((f"remat_every={args.remat_every}", replay), ("graph", graph)):
        print(f"{name:<16}{result['mb']:>9.1f} MB {result['seconds']:>8.2f} s")
    print(f"graph / replay: {graph['mb'] / replay['mb']:.1f} times the memory, results {apart:.1e} apart")


if __name__ == "__main__":
    main()
