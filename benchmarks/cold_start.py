"""How long the contestants on Jittor take until their first step with no kernel compiled, and with all of them.

Jittor's core and jboat's operations in C++ are there: they are compiled once for an environment, whatever it runs. The
cache is one of its own, in the home build/cold, whose kernels are thrown away before every measurement.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile
import time

from contestant_process import PEERS, Process, interpreter
from peers import LOWER_ITERS

CONTESTANTS = ("jboat", "jittor", "boat_jit")
HOME = PEERS.parent / "cold"


def first_step(name: str, problem: str, chain: str, patience: float) -> tuple[float, float]:
    """Seconds from the start of the process to the end of the first step, and the kernels it has loaded then."""
    begun = time.perf_counter()
    process = Process(name, problem, chain, LOWER_ITERS[problem])
    try:
        with tempfile.TemporaryDirectory() as folder:
            process.ask(f"gradient {Path(folder) / 'gradient.npy'}", patience)
            process.ask("step", patience)
            seconds = time.perf_counter() - begun
            return seconds, process.ask("end", patience)["kernels"]
    finally:
        process.kill()


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", default=["l2", "cleaning", "mlp", "cnn"], choices=list(LOWER_ITERS))
    parser.add_argument("--chains", nargs="+", default=["RAD", "VFO"])
    parser.add_argument("--patience", type=float, default=240.0, help="seconds for an answer (default: %(default)s)")
    args = parser.parse_args()
    for name in CONTESTANTS:
        interpreter(name)  # pip reads its settings in the user's own home
    HOME.mkdir(parents=True, exist_ok=True)
    os.environ["HOME"] = str(HOME)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([sys.executable, "-c", "import jboat.backend.start as s; s.start()"], check=True, **quiet)

    heads = [f"{name}, {what}" for name in CONTESTANTS for what in ("empty s", "full s", "kernels")]
    print(f"| problem | chain | {' | '.join(heads)} |\n{'| --- ' * (2 + len(heads))}|")
    for problem in args.problems:
        for chain in args.chains:
            row = []
            for name in CONTESTANTS:
                for kernels in HOME.glob(".cache/jittor/**/jit"):
                    shutil.rmtree(kernels)
                empty, _ = first_step(name, problem, chain, args.patience)
                full, count = first_step(name, problem, chain, args.patience)
                row += [f"{empty:.1f}", f"{full:.1f}", f"{count:.0f}"]
            print(f"| {problem} | {chain} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
