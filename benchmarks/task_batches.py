"""Few-shot tasks computed together, beside one after another, boat-torch and PyTorch by hand with ``torch.func.vmap``.

Contestants run as in peers.py, each in a process of its own, and take turns. The hypergradients at the start are
compared first. Besides the time of a step there is what it took of the processor, which other programs that run do not
change so much; compare that with one thread (``OMP_NUM_THREADS=1``), since waiting threads take time too.

``maml`` is the network of convolutions of peers.py with its 4 tasks; of 32 tasks there are that network and two
perceptrons, of 64 and of 784 numbers a sample.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from pathlib import Path
import statistics
import tempfile
import time
from typing import NamedTuple

from contestant_process import Process, interpreter
import numpy as np

RESULTS = Path(__file__).parent / "results" / "task_batches.json"
LOWER_ITERS = 5
WARM_UP = 2
STEPS_OF_A_TURN = 2
REST = 0.3  # seconds, until the threads of the one before sleep
PATIENCE = 400.0


class Case(NamedTuple):
    """How many tasks, and of a perceptron the units of its hidden layer and the numbers of a sample."""

    tasks: int
    hidden: int | None = None
    features: int | None = None


CASES = {"maml": Case(4), "cnn32": Case(32), "mlp32": Case(32, 64, 64), "wide_mlp32": Case(32, 64, 784)}
# name: the program, and how many tasks it computes at once (0 for all)
CONTESTANTS = {
    "jboat": ("jboat", 1),
    "jboat, together": ("jboat", 0),
    "boat_torch": ("boat_torch", 1),
    "torch": ("torch", 1),
    "torch, vmap": ("torch_vmap", 0),
}


def measured(case: Case, chain: str, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The milliseconds of a step and the error of the hypergradient, of every contestant that runs."""
    rows: dict[str, dict[str, float]] = {}
    running: dict[str, Process] = {}
    gradients: dict[str, np.ndarray] = {}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        for name, (program, together) in CONTESTANTS.items():
            try:
                interpreter(program, args.torch_python, install=not args.no_install)
                process = Process(
                    program,
                    "maml",
                    chain,
                    LOWER_ITERS,
                    torch_python=args.torch_python,
                    tasks=case.tasks,
                    hidden=case.hidden,
                    features=case.features,
                    together=together or args.together or case.tasks,
                )
                stack.callback(process.kill)
                path = os.path.join(folder, f"{len(running)}.npy")
                process.ask(f"gradient {path}", PATIENCE)
                gradients[name] = np.load(path)
                running[name] = process
            except RuntimeError as error:
                print(f"{name}: {error}", flush=True)
        times: dict[str, list[dict[str, float]]] = {name: [] for name in running}
        for turn in range(-(-args.steps // STEPS_OF_A_TURN)):
            for name, process in running.items():
                time.sleep(REST)
                untimed = 1 if turn else WARM_UP
                taken = [process.ask("step", PATIENCE) for _ in range(untimed + STEPS_OF_A_TURN)]
                times[name] += taken[untimed:]
        exact = gradients.get("torch", next(iter(gradients.values())))
        for name, process in running.items():
            off = float(np.linalg.norm(gradients[name] - exact) / np.linalg.norm(exact))
            peak = process.ask("end", PATIENCE)["peak_mb"]
            rows[name] = {"off": off, "peak_mb": peak}
            rows[name] |= {kind: statistics.median(t[kind] for t in times[name]) for kind in ("ms", "processor_ms")}
    return rows


def main() -> None:
    """Measure the cases, and print a table of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--chains", nargs="+", default=["IAD"], choices=["IAD", "FOA+IAD"])
    parser.add_argument("--together", type=int, help="tasks of a chunk (default: all)")
    parser.add_argument("--steps", type=int, default=20, help="timed steps (default: %(default)s)")
    parser.add_argument("--torch-python", help="a Python that has PyTorch (default: that of build/peers/torch)")
    parser.add_argument("--no-install", action="store_true", help="install nothing")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: benchmarks/results/task_batches.json")
    args = parser.parse_args()
    found = json.loads(args.output.read_text()) if args.output.exists() else {}
    for name in args.cases:
        for chain in args.chains:
            rows = measured(CASES[name], chain, args)
            found[f"{name} {chain}"] = rows
            args.output.write_text(json.dumps(found, indent=1) + "\n")
            print(f"\n{name}, {chain}\n| contestant | ms | of the processor | off | peak MB |")
            print("| --- | --- | --- | --- | --- |")
            for contestant, row in rows.items():
                numbers = f"{row['ms']:.1f} | {row['processor_ms']:.1f} | {row['off']:.1e} | {row['peak_mb']:.0f}"
                print(f"| {contestant} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
