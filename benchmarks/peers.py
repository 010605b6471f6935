"""jboat beside its peers: time, memory, kernels and cold start of an outer step.

Every contestant runs in a process of its own and takes its steps in turn with the others, on the same arrays. The
hypergradients at the start are compared first. Libraries on PyTorch are installed from the package registry into a
virtual environment of their own, build/peers/torch. boat-jit runs on this environment's Jittor and its cache, and lies
in build/peers/boat_jit. The kernels counted are those that a run has loaded, which are those that it would have
compiled with an empty cache. A contestant that takes too long for a step is left out, and the table says so.

Contestants take turns. Each turn begins when the threads of the one before have gone to sleep, which wait for work for
up to 200 ms with both cores busy, and with a step that is not timed, which fills the caches that the others emptied.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from pathlib import Path
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

HERE = Path(__file__).parent
PEERS = HERE.parent / "build" / "peers"
RESULTS = HERE / "results"
sys.path.insert(0, str(HERE / "contestants"))

from problems import LOWER_ITERS  # noqa: E402  (lies beside the contestants, which import it by this name)

ON_TORCH = [
    "torch==2.13.0",
    "boat-torch==1.1.1",
    "higher==0.2.1",
    "betty-ml==0.1.1",
    "torchopt==0.7.3",
    "numpy<2",
    "matplotlib",
    "setuptools<81",
]
CHAINS = ["RAD", "RGT+RAD", "PTT+RAD", "CG", "NS", "FD", "IGA", "DI+RAD", "GDA+RAD", "VFO", "PGDO", "MESO"]
MAML_CHAINS = ["IAD", "FOA+IAD"]
UNROLLED = ("RAD", *MAML_CHAINS)
BY_HAND = (*UNROLLED, "CG", "NS", "FD", "VFO", "PGDO", "MESO")
CONTESTANTS: dict[str, tuple[str, ...]] = {
    "jboat": (*CHAINS, *MAML_CHAINS),
    "jittor": BY_HAND,
    "boat_jit": (*CHAINS, *MAML_CHAINS),
    "torch": (*BY_HAND, "RGT+RAD", "PTT+RAD", "DI+RAD", "GDA+RAD", "IGA"),
    "boat_torch": (*CHAINS, *MAML_CHAINS),
    "betty": ("CG", "NS", "FD"),
    "torchopt": ("RAD", "IAD"),
}
SOLVED = ("CG", "NS")
COMPILES_LONG = {"boat_jit": SOLVED}
ITERATIONS = 10
WARM_UP = 3
STEPS_OF_A_TURN = 2
REST = 0.3  # seconds
OFF = 1e-3


def interpreter(name: str) -> tuple[str, dict[str, str]]:
    """The Python that runs a contestant and its environment variables, after installing what is missing."""
    environment = dict(os.environ)
    if name in ("jboat", "jittor"):
        return sys.executable, environment
    if name == "boat_jit":
        target = PEERS / "boat_jit"
        if not (target / ".ready").exists():
            packages = ["--no-deps", "--target", str(target), "boat-jit==1.1.1"]
            subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *packages], check=True)
            (target / ".ready").touch()
        environment["PYTHONPATH"] = str(target)
        return sys.executable, environment
    python = PEERS / "torch" / "bin" / "python"
    if not (PEERS / "torch" / ".ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEERS / "torch")], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *ON_TORCH], check=True)
        (PEERS / "torch" / ".ready").touch()
    return str(python), environment


class Process:
    """A contestant at work."""

    def __init__(self, name: str, problem: str, chain: str, lower_iters: int, **options: object) -> None:
        python, environment = interpreter(name)
        script = str(HERE / "contestants" / f"use_{name}.py")
        command = [python, script, "--problem", problem, "--chain", chain, "--lower-iters", str(lower_iters)]
        command += [f"--{option}={value}" for option, value in options.items()]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed with the process)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
            start_new_session=True,
        )

    def ask(self, command: str, patience: float) -> dict[str, float]:
        """Send a command and wait for its answer, at most ``patience`` seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
            if not select.select([self._process.stdout], [], [], patience)[0]:
                raise RuntimeError(f"no answer to {command.split()[0]!r} in {patience:.0f} s")
            answer: dict[str, float] = json.loads(self._process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            self._process.wait()
            self._errors.seek(0)
            lines = [line for line in self._errors.read().splitlines() if "Error" in line] or ["no message"]
            raise RuntimeError(lines[-1]) from None
        return answer

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid

    def kill(self) -> None:
        """End it, and the compilers that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def run_cell(problem: str, chain: str, lower_iters: int, args: argparse.Namespace) -> dict[str, Any]:
    """All contestants that have this chain on one task."""
    result: dict[str, Any] = {"problem": problem, "chain": chain, "lower_iters": lower_iters, "contestants": {}}
    if chain in SOLVED and args.iterations != ITERATIONS:
        result["chain"] = f"{chain}, k = {args.iterations}"
    running: dict[str, Process] = {}
    gradients: dict[str, np.ndarray] = {}
    rows: dict[str, dict[str, Any]] = result["contestants"]
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only:
            if chain not in CONTESTANTS[name] or (chain in COMPILES_LONG.get(name, ()) and not args.slow):
                continue
            rows[name] = {}
            process = Process(name, problem, chain, lower_iters, iterations=args.iterations, device=args.device)
            try:
                path = os.path.join(folder, f"{name}.npy")
                process.ask(f"gradient {path}", args.patience)
                rows[name]["first_s"] = process.ask("step", args.patience)["since_start"]
                gradients[name] = np.load(path)
                running[name] = process
            except RuntimeError as error:
                rows[name]["failed"] = str(error)
                process.kill()
    times: dict[str, list[float]] = {name: [] for name in running}
    for number in range(-(-args.steps // STEPS_OF_A_TURN)):
        for name, process in list(running.items()):
            time.sleep(REST)
            untimed = 1 if number else WARM_UP
            try:
                taken = [process.ask("step", args.patience)["ms"] for _ in range(untimed + STEPS_OF_A_TURN)]
            except RuntimeError as error:
                rows[name]["failed"] = f"turn {number + 1}: {error}"
                process.kill()
                del running[name]
                continue
            times[name] += taken[untimed:]
    reference = next((name for name in ("torch", "jittor", "jboat") if name in running), None)
    for name, process in running.items():
        rows[name].update(process.ask("end", args.patience), ms=statistics.median(times[name]))
        process.kill()
        exact = gradients[reference] if reference else gradients[name]
        rows[name]["off"] = _distance(gradients[name], exact)
    ours = rows.get("jboat", {}).get("ms")
    for name in running:
        rows[name]["jboat_ratio"] = ours / rows[name]["ms"] if ours else None
    result["reference"] = reference
    return result


def _distance(found: np.ndarray, exact: np.ndarray) -> float:
    """How far off a hypergradient is, as a part of the exact one, which may be zero."""
    distance, size = float(np.linalg.norm(found - exact)), float(np.linalg.norm(exact))
    return distance / size if size else (float("inf") if distance else 0.0)


def table(cells: list[dict[str, Any]]) -> str:
    """The results in Markdown; ``off`` is the distance from the hypergradient of the loop by hand, PyTorch's first."""
    lines = [
        "| problem | chain | K | contestant | ms a step | jboat / it | off | peak MB | kernels | first step s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for cell in cells:
        for name, row in cell["contestants"].items():
            head = f"| {cell['problem']} | {cell['chain']} | {cell['lower_iters']} | {name} |"
            if "failed" in row:
                lines.append(f"{head} failed: {row['failed'][:100].replace('|', '/')} | | | | | |")
                continue
            kernels = f"{row['kernels']:.0f}" if row["kernels"] else ""
            wrong = "" if row["off"] <= OFF else " **differs**"
            lines.append(
                f"{head} {row['ms']:.1f} | {row['jboat_ratio'] or 0:.2f} | {row['off']:.1e}{wrong} | "
                f"{row['peak_mb']:.0f} | {kernels} | {row['first_s']:.1f} |"
            )
    return "\n".join(lines)


def summary() -> str:
    """The time of jboat over that of each contestant: ``x`` where that failed, ``!`` where its gradient is off."""
    others = [name for name in CONTESTANTS if name != "jboat"]
    lines = [
        f"| problem | chain | K | jboat ms | {' | '.join(others)} | peak MB, jboat and boat-jit | kernels, both |",
        "| --- " * (6 + len(others)) + "|",
    ]
    for name in [f"{beginning}{problem}" for problem in LOWER_ITERS for beginning in ("", "k50_", "solver5_")]:
        path = RESULTS / f"{name}.json"
        for cell in json.loads(path.read_text()) if path.exists() else []:
            rows = cell["contestants"]
            ours, peer = rows.get("jboat", {}), rows.get("boat_jit", {})
            if "ms" not in ours:
                continue
            ratios = " | ".join(_ratio(rows.get(other)) for other in others)
            memory = f"{ours['peak_mb']:.0f}, {peer['peak_mb']:.0f}" if "peak_mb" in peer else f"{ours['peak_mb']:.0f}"
            kernels = f"{ours['kernels']:.0f}, {peer['kernels']:.0f}" if "kernels" in peer else f"{ours['kernels']:.0f}"
            head = f"| {cell['problem']} | {cell['chain']} | {cell['lower_iters']} | {ours['ms']:.1f} |"
            lines.append(f"{head} {ratios} | {memory} | {kernels} |")
    return "\n".join(lines)


def _ratio(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    if "failed" in row:
        return "x"
    return f"{row['jboat_ratio']:.2f}{'' if row['off'] <= OFF else '!'}"


def main() -> None:
    """Run the cells and write benchmarks/results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", default=list(LOWER_ITERS), choices=list(LOWER_ITERS))
    parser.add_argument("--chains", nargs="+", default=[*CHAINS, *MAML_CHAINS], choices=[*CHAINS, *MAML_CHAINS])
    parser.add_argument("--lower-iters", type=int, nargs="+", help="K (default: 10; 5 for cnn and maml)")
    parser.add_argument(
        "--iterations", type=int, default=ITERATIONS, help="of the solvers of CG and NS (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=20, help="timed steps (default: %(default)s)")
    parser.add_argument("--only", nargs="+", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    parser.add_argument("--patience", type=float, default=240.0, help="seconds for an answer (default: %(default)s)")
    parser.add_argument("--slow", action="store_true", help="do not leave out what compiles for a quarter of an hour")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--name", default="", help="beginning of the names of the files in benchmarks/results")
    args = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    for problem in args.problems:
        cells = []
        path = RESULTS / f"{args.name}{problem}"
        for lower_iters in args.lower_iters or [LOWER_ITERS[problem]]:
            for chain in args.chains:
                if (problem == "maml") != (chain in MAML_CHAINS):
                    continue
                cells.append(run_cell(problem, chain, lower_iters, args))
                print(table(cells[-1:]).split("\n", 2)[2], flush=True)
                path.with_suffix(".json").write_text(json.dumps(cells, indent=1) + "\n")
                path.with_suffix(".md").write_text(table(cells) + "\n")
    (RESULTS / "summary.md").write_text(summary() + "\n")


if __name__ == "__main__":
    main()
