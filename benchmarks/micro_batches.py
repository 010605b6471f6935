"""What lower_micro_batches saves: peak memory and time of RAD on the CNN of replay_memory.py with a large batch.

Each number of parts runs in a process of its own. Its memory is the growth of the peak resident set over that of the
same process after a hypergradient with a batch of two samples a part.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

import jboat  # noqa: F401  (before Jittor)
import jittor as jt
from jittor import nn
import numpy as np
from replay_memory import CLASSES, Weights, network, peak_mb, trainer_of

SECTIONS = {"RAD": {"remat_every": 1}}


def lower(batch: dict[str, Any], ul_model: jt.Module, ll_model: Any) -> jt.Var:
    """Weighted training loss; each image finds its weight by its index."""
    losses = nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"], reduction="none")
    return (losses * ul_model.log[batch["index"]].exp()).mean()


def measure(images: int, parts: int, lower_iters: int) -> dict[str, Any]:
    """Peak memory and time of one hypergradient in this process, and the hypergradient."""
    jt.set_global_seed(0)
    rng = np.random.default_rng(0)
    model, weights = network("cnn"), Weights(images)

    def batch(samples: int) -> dict[str, Any]:
        return {
            "data": rng.normal(size=(samples, 1, 16, 16)).astype("float32"),
            "target": rng.integers(0, CLASSES, samples).astype("int32"),
            "index": np.arange(samples, dtype="int32"),
        }

    def hypergradient(train: dict[str, Any], val: dict[str, Any]) -> np.ndarray:
        trainer = trainer_of(
            model, weights, lower, lower_iters=lower_iters, lower_micro_batches=parts, solver_config=SECTIONS
        )
        return trainer.hypergradient(train, val, check_second_order=False).gradients[0].numpy()

    val, train = batch(32), batch(images)
    hypergradient(batch(2 * parts), val)
    before, begun = peak_mb(), time.perf_counter()
    value = hypergradient(train, val)
    return {"mb": peak_mb() - before, "seconds": time.perf_counter() - begun, "value": value.tolist()}


def main() -> None:
    """Measure every number of parts, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000, help="samples of a lower batch (default: %(default)s)")
    parser.add_argument("--lower-iters", type=int, default=3, help="K (default: %(default)s)")
    parser.add_argument("--parts", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        print(json.dumps(measure(args.images, args.child, args.lower_iters)))
        return
    print("| parts | memory | time | from the whole |\n" + "| --- " * 4 + "|")
    exact = None
    for parts in args.parts:
        size = ["--images", str(args.images), "--lower-iters", str(args.lower_iters)]
        command = [sys.executable, __file__, *size, "--child", str(parts)]
        found = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
        value = np.array(found["value"])
        exact = value if exact is None else exact
        apart = np.linalg.norm(value - exact) / np.linalg.norm(exact)
        print(f"| {parts} | {found['mb']:.1f} MB | {found['seconds']:.2f} s | {apart:.1e} |", flush=True)


if __name__ == "__main__":
    main()
