"""What an outer step costs: jboat's RAD, cut at every inner step, beside one lazy graph of all steps in plain Jittor.

Problem: logistic regression of 1000 + 1000 samples, 1000 features and 20 classes, one L2 weight per feature. Both
programs run on the same arrays in turn; the table gives medians, their ratio, the kernels that each compiled, and how
far the two hypergradients are apart.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

from jboat import BilevelTrainer
import jittor as jt
from jittor import nn
from l2_problem import RATE, Penalties, batches, lower, models, upper
import numpy as np


def whole_graph(train: dict[str, Any], val: dict[str, Any], penalties: Penalties, start: jt.Var, steps: int) -> jt.Var:
    """The hypergradient by one lazy graph of all steps, as one would write it by hand."""
    w = start.detach()
    for _ in range(steps):
        loss = nn.cross_entropy_loss(nn.matmul_transpose(train["data"], w), train["target"])
        loss = loss + 0.5 * (penalties.log.exp() * w * w).sum()
        w = w - RATE * jt.grad(loss, [w])[0]
    loss = nn.cross_entropy_loss(nn.matmul_transpose(val["data"], w), val["target"])
    return jt.grad(loss, [penalties.log])[0]


def kernels() -> int:
    """How many kernels Jittor has compiled in this environment so far."""
    return sum(name.endswith(".so") for name in os.listdir(os.path.join(jt.flags.cache_path, "jit")))


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=20, help="timed outer steps (default: %(default)s)")
    parser.add_argument("--lower-iters", type=int, nargs="+", default=[10, 50], help="K (default: 10 50)")
    args = parser.parse_args()
    train, val = batches()
    model, penalties = models()
    start = model.weight.detach()
    print(
        f"{'K':>4} {'jboat ms':>10} {'plain ms':>10} {'ratio':>7} {'kernels jboat':>14} {'plain':>6} {'difference':>11}"
    )
    for steps in args.lower_iters:
        trainer = BilevelTrainer(
            model,
            penalties,
            lower,
            upper,
            ll_optimizer=jt.optim.SGD(model.parameters(), RATE),
            ul_optimizer=jt.optim.SGD(penalties.parameters(), 0.1),
            lower_iters=steps,
        )
        programs = {
            "jboat": lambda trainer=trainer: trainer.hypergradient(train, val).gradients[0],
            "plain": lambda steps=steps: whole_graph(train, val, penalties, start, steps),
        }
        compiled, times, values = {}, {name: [] for name in programs}, {}
        for name, program in programs.items():
            before = kernels()
            for _ in range(3):
                values[name] = program().numpy()
            compiled[name] = kernels() - before
        for _ in range(args.repeat):
            for name, program in programs.items():
                jt.sync_all(True)
                begun = time.perf_counter()
                program().sync()
                jt.sync_all(True)
                times[name].append(1000 * (time.perf_counter() - begun))
        ours, plain = (statistics.median(times[name]) for name in ("jboat", "plain"))
        apart = np.linalg.norm(values["jboat"] - values["plain"]) / np.linalg.norm(values["plain"])
        print(
            f"{steps:>4} {ours:>10.2f} {plain:>10.2f} {ours / plain:>7.2f} "
            f"{compiled['jboat']:>14} {compiled['plain']:>6} {apart:>11.1e}"
        )


if __name__ == "__main__":
    main()
