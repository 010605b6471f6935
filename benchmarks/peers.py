"""jboat beside its peers: time, memory, kernels and cold start of an outer step.

Every contestant runs in a process of its own and takes its steps in turn with the others, on the same arrays. The
hypergradients at the start are compared first. Libraries that are no dependency of jboat are installed from the package
registry into build/peers, PyTorch included; Jittor and its cache are those of this environment. The kernels counted are
those that a run has loaded, which are those that it would have compiled with an empty cache.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
import statistics
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np

HERE = Path(__file__).parent
PEERS = HERE.parent / "build" / "peers"
RESULTS = HERE / "results"
INSTALLED = {"boat_jit": ["boat-jit==1.1.1"], "torch": ["torch==2.13.0"]}
CONTESTANTS = {"jboat": "", "jittor": "", "boat_jit": "boat_jit", "torch": "torch"}
BY_HAND = {"jittor": ("RAD", "CG", "NS"), "torch": ("RAD", "CG", "NS")}
NOT_IN = {"boat_jit": ("GAFFO",)}


def install(name: str) -> Path:
    """Where a peer lies, after installing it if need be."""
    target = PEERS / name
    if not (target / ".ready").exists():
        options = ["--quiet", "--no-deps"] if name == "boat_jit" else ["--quiet"]
        command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), *INSTALLED[name]]
        subprocess.run(command, check=True)
        (target / ".ready").touch()
    return target


class Process:
    """A contestant at work."""

    def __init__(self, name: str, problem: str, chain: str, lower_iters: int) -> None:
        environment = dict(os.environ)
        if CONTESTANTS[name]:
            environment["PYTHONPATH"] = str(install(CONTESTANTS[name]))
        script = str(HERE / "contestants" / f"use_{name}.py")
        command = [sys.executable, script, "--problem", problem, "--chain", chain, "--lower-iters", str(lower_iters)]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed with the process)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=environment
        )

    def ask(self, command: str) -> dict[str, float]:
        """Send a command and wait for its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
            answer: dict[str, float] = json.loads(self._process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            self._process.wait()
            self._errors.seek(0)
            lines = self._errors.read().strip().splitlines() or ["no message"]
            raise RuntimeError(lines[-1]) from None
        return answer

    def kill(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def run_cell(problem: str, chain: str, lower_iters: int, steps: int, names: list[str]) -> dict[str, Any]:
    """All contestants on one task."""
    result: dict[str, Any] = {"problem": problem, "chain": chain, "lower_iters": lower_iters, "contestants": {}}
    running: dict[str, Process] = {}
    gradients: dict[str, np.ndarray] = {}
    rows: dict[str, dict[str, Any]] = result["contestants"]
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            if chain not in BY_HAND.get(name, (chain,)) or chain in NOT_IN.get(name, ()):
                continue
            rows[name] = {}
            process = Process(name, problem, chain, lower_iters)
            try:
                path = os.path.join(folder, f"{name}.npy")
                process.ask(f"gradient {path}")
                rows[name]["first_s"] = process.ask("step")["since_start"]
                gradients[name] = np.load(path)
                running[name] = process
            except RuntimeError as error:
                rows[name]["failed"] = str(error)
                process.kill()
    exact = gradients.get("torch", gradients.get("jittor", gradients.get("jboat")))
    times: dict[str, list[float]] = {name: [] for name in running}
    for number in range(3 + steps):
        for name, process in list(running.items()):
            try:
                taken = process.ask("step")["ms"]
            except RuntimeError as error:
                rows[name]["failed"] = f"step {number + 1}: {error}"
                process.kill()
                del running[name]
                continue
            if number >= 3:
                times[name].append(taken)
    for name, process in running.items():
        rows[name].update(process.ask("end"), ms=statistics.median(times[name]))
        process.kill()
        if exact is not None:
            rows[name]["off"] = float(np.linalg.norm(gradients[name] - exact) / np.linalg.norm(exact))
    ours = rows.get("jboat", {}).get("ms")
    for name in running:
        rows[name]["jboat_ratio"] = ours / rows[name]["ms"] if ours else None
    return result


def table(cells: list[dict[str, Any]]) -> str:
    """The results in Markdown; ``off`` is the distance from plain PyTorch's hypergradient."""
    lines = [
        "| problem | chain | K | contestant | ms a step | jboat / it | off | peak MB | kernels | first step s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for cell in cells:
        for name, row in cell["contestants"].items():
            head = f"| {cell['problem']} | {cell['chain']} | {cell['lower_iters']} | {name} |"
            if "failed" in row:
                lines.append(f"{head} failed: {row['failed'][:60]} | | | | | |")
                continue
            lines.append(
                f"{head} {row['ms']:.1f} | {row['jboat_ratio']:.2f} | {row['off']:.1e} | {row['peak_mb']:.0f} | "
                f"{row['kernels']:.0f} | {row['first_s']:.1f} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Run the cells and write benchmarks/results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", default=["l2", "cleaning"], choices=["l2", "cleaning"])
    parser.add_argument("--chains", nargs="+", default=["RAD", "CG", "NS", "FD", "IGA", "VFO", "PGDO", "MESO"])
    parser.add_argument("--lower-iters", type=int, nargs="+", default=[10], help="K (default: 10)")
    parser.add_argument("--steps", type=int, default=20, help="timed steps (default: %(default)s)")
    parser.add_argument("--only", nargs="+", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    parser.add_argument("--name", default="peers", help="name of the files in benchmarks/results")
    args = parser.parse_args()
    cells = []
    for problem in args.problems:
        for lower_iters in args.lower_iters:
            for chain in args.chains:
                cells.append(run_cell(problem, chain, lower_iters, args.steps, args.only))
                print(table(cells[-1:]).split("\n", 2)[2], flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{args.name}.json").write_text(json.dumps(cells, indent=1) + "\n")
    (RESULTS / f"{args.name}.md").write_text(table(cells) + "\n")


if __name__ == "__main__":
    main()
