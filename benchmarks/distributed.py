"""Several processes by mpirun: time of an outer step for 1 and 2 of them, and what they send.

The task is logistic regression with one L2 weight a feature, full batches. Strong scaling keeps the samples of a step,
weak scaling those of a process. Each process has one thread. What is sent is counted by jboat itself
(``jboat.backend.ranks.traffic``), and stands beside the least that the method can do with: each lower gradient, each
product on the way back or of an iteration, the upper gradient by y and the hypergradient, reduced once. MPI waits with
busy processors: trust times of a machine that nothing else runs on.

    python benchmarks/distributed.py [--samples 4000] [--steps 20]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

K, FEATURES, CLASSES, ITERATIONS = 10, 784, 10, 10
CHAINS = ["RAD", "RGT+RAD", "CG", "NS", "FD", "VFO", "SOBA"]
WARM_UP = 3

LEAST = {
    "RAD": K + (K - 1),
    "RGT+RAD": K + (K // 2 - 1),
    "CG": K + 1 + ITERATIONS,
    "NS": K + 1 + ITERATIONS,
    "FD": K,
    "VFO": K,
    "SOBA": 1 + 1,
}
"""Lower gradients by y, and products as long as y."""


def measured(chain: str, samples: int, steps: int) -> dict[str, Any]:
    """The median time of an outer step, and what it sends; run by every rank."""
    from jboat import BilevelTrainer
    from jboat.backend import ranks
    from jboat.callbacks import LambdaCallback
    import jittor as jt
    from jittor import nn
    import numpy as np

    class Weights(jt.Module):
        def __init__(self) -> None:
            self.value = jt.full((FEATURES,), -5.0)

        def execute(self) -> jt.Var:
            return self.value

    def lower(batch: dict[str, Any], ul_model: jt.Module, ll_model: jt.Module) -> jt.Var:
        penalty = (ll_model.weight * ll_model.weight * ul_model().exp()).sum()
        return nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"]) + penalty

    def upper(batch: dict[str, Any], ul_model: jt.Module, ll_model: jt.Module) -> jt.Var:
        return nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"])

    rng = np.random.default_rng(0)
    true = rng.normal(size=(FEATURES, CLASSES))

    def batch() -> dict[str, Any]:
        data = rng.normal(size=(samples, FEATURES)).astype(np.float32)
        return {"data": data, "target": (data @ true).argmax(1).astype(np.int32)}

    train, val = batch(), batch()
    ll_model, ul_model = nn.Linear(FEATURES, CLASSES), Weights()
    own = {"fo_op": chain} if chain == "VFO" else {"sl_op": chain} if chain == "SOBA" else {"na_op": chain.split("+")}
    ends: list[float] = []
    traffic: list[ranks.Traffic] = []

    def note(*_: Any) -> None:
        jt.sync_all(True)
        ends.append(time.perf_counter())
        traffic.append(ranks.traffic())

    trainer = BilevelTrainer(
        ll_model,
        ul_model,
        lower,
        upper,
        ll_optimizer=jt.optim.SGD(ll_model.parameters(), 0.1),
        ul_optimizer=jt.optim.SGD(ul_model.parameters(), 0.1),
        lower_iters=K,
        solver_config={"RGT": {"truncate_iter": K // 2}, "CG": {"k": ITERATIONS, "tolerance": 0.0}},
        seed=0,
        callbacks=[LambdaCallback(on_step_end=note)],
        **own,
    )
    trainer.fit(train, val, max_steps=WARM_UP + steps, check_second_order=False, progress=False)
    times = [end - begun for begun, end in itertools.pairwise(ends[WARM_UP - 1 :])]
    sent = ranks.Traffic(*(now - then for then, now in zip(*traffic[-2:], strict=True)))
    seconds = max(seconds for (seconds,) in ranks.gathered([statistics.median(times)]))
    return {"ms": 1e3 * seconds, "reductions": sent.reductions, "bytes": sent.size, "scalars": sent.scalars}


def in_processes(processes: int, chain: str, samples: int, steps: int) -> dict[str, Any]:
    """The same, measured by so many processes."""
    command = [sys.executable, __file__, "--chain", chain, "--samples", str(samples), "--steps", str(steps)]
    if processes > 1:
        root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
        command = ["mpirun", *root, "--oversubscribe", "-np", str(processes), *command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def least(chain: str) -> tuple[int, int]:
    """The smallest number of reductions, and their bytes."""
    long, y, x = LEAST[chain] + 1, 4 * (FEATURES + 1) * CLASSES, 4 * FEATURES
    return long + 1, long * y + x


def main() -> None:
    """Print the table, or, with ``--chain``, measure in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=4000, help="of each level in a step of one process")
    parser.add_argument("--steps", type=int, default=20, help="to take the median of")
    parser.add_argument("--chains", nargs="*", default=CHAINS, choices=CHAINS)
    parser.add_argument("--chain", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.chain:
        found = measured(args.chain, args.samples, args.steps)
        from jboat.backend import ranks

        if ranks.rank() == 0:
            print(json.dumps(found), flush=True)
        return
    print("| chain | 1 process, ms | 2, ms: strong | 2, ms: weak | reductions, least | kB sent, least |")
    print("| --- | --- | --- | --- | --- | --- |")
    for chain in args.chains:
        alone = in_processes(1, chain, args.samples, args.steps)
        strong = in_processes(2, chain, args.samples, args.steps)
        weak = in_processes(2, chain, 2 * args.samples, args.steps)
        number, size = least(chain)
        print(
            f"| {chain} | {alone['ms']:.1f} | {strong['ms']:.1f} ({alone['ms'] / strong['ms']:.2f}) "
            f"| {weak['ms']:.1f} ({alone['ms'] / weak['ms']:.2f}) | {strong['reductions']}, {number} "
            f"| {strong['bytes'] / 1e3:.0f}, {size / 1e3:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
