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
from collections.abc import Iterator, Mapping
import contextlib
import json
import os
from pathlib import Path
import signal
import statistics
import sys
import tempfile
import time
from types import FrameType
from typing import Any

from comparison_table import summary, table
from contestant_process import Process, interpreter
import numpy as np

HERE = Path(__file__).parent
RESULTS = HERE / "results"
sys.path.insert(0, str(HERE / "contestants"))

from benchmark_problems import LOWER_ITERS  # noqa: E402  (lies beside the contestants, which import it by this name)

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
REST = {"cpu": 0.3, "cuda": 0.02}  # seconds
TURNS = 5.0  # seconds of a limit that are kept for them while contestants start
ENDING = 20.0  # seconds for its last answer
LINES = 30  # of what a contestant that failed wrote
ON_A_GPU = ("resnet",)  # a step takes minutes on two cores


def run_cell(
    problem: str,
    chain: str,
    lower_iters: int,
    args: argparse.Namespace,
    *,
    absent: Mapping[str, str],
    deadline: float,
) -> Iterator[dict[str, Any]]:
    """All contestants that have this chain on one task: the results so far, after every start and every turn.

    Args:
        problem: the task.
        chain: the method.
        lower_iters: K.
        args: the options of this program.
        absent: why contestants that cannot run cannot.
        deadline: when to come to an end, by ``time.monotonic()``.
    """
    result: dict[str, Any] = {"problem": problem, "chain": chain, "lower_iters": lower_iters, "contestants": {}}
    if chain in SOLVED and args.iterations != ITERATIONS:
        result["chain"] = f"{chain}, k = {args.iterations}"
    running: dict[str, Process] = {}
    gradients: dict[str, np.ndarray] = {}
    rows: dict[str, dict[str, Any]] = result["contestants"]
    sizes = {"samples": args.samples, "pixels": args.pixels}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        for name in args.only:
            if chain not in CONTESTANTS[name] or (chain in COMPILES_LONG.get(name, ()) and not args.slow):
                continue
            patience = min(args.patience, deadline - time.monotonic() - TURNS)
            if name in absent or patience <= 0.0:
                rows[name] = {"failed": absent.get(name, "no time left")}
                continue
            rows[name] = {}
            process = Process(
                name,
                problem,
                chain,
                lower_iters,
                torch_python=args.torch_python,
                iterations=args.iterations,
                device=args.device,
                **sizes,
            )
            stack.callback(process.kill)
            try:
                path = os.path.join(folder, f"{name}.npy")
                process.ask(f"gradient {path}", patience)
                rows[name]["first_s"] = process.ask("step", patience)["since_start"]
                gradients[name] = np.load(path)
                running[name] = process
            except RuntimeError as error:
                _give_up(rows[name], process, name, str(error))
            _compare(result, gradients)
            yield result
        times: dict[str, list[float]] = {name: [] for name in running}
        for number in range(-(-args.steps // STEPS_OF_A_TURN)):
            if number and time.monotonic() > deadline:
                break
            for name, process in list(running.items()):
                time.sleep(REST[args.device])
                untimed = 1 if number else WARM_UP
                patience = min(args.patience, max(TURNS, deadline - time.monotonic()))
                try:
                    taken = [process.ask("step", patience)["ms"] for _ in range(untimed + STEPS_OF_A_TURN)]
                except RuntimeError as error:
                    _give_up(rows[name], process, name, f"turn {number + 1}: {error}")
                    del running[name]
                    continue
                times[name] += taken[untimed:]
                rows[name]["ms"] = statistics.median(times[name])
            _compare(result, gradients)
            yield result
        for name, process in running.items():
            try:
                rows[name].update(process.ask("end", ENDING))
            except RuntimeError as error:
                _give_up(rows[name], process, name, f"at its end: {error}")
        _compare(result, gradients)
        yield result


def _give_up(row: dict[str, Any], process: Process, name: str, reason: str) -> None:
    """End a contestant that failed; what it wrote goes on to the standard error, at most the end of it."""
    row["failed"] = reason
    process.kill()
    print(f"{name}: {reason}", *process.errors().splitlines()[-LINES:], sep="\n", file=sys.stderr, flush=True)


def _compare(result: dict[str, Any], gradients: dict[str, np.ndarray]) -> None:
    """Enter how far off each contestant's hypergradient is, and jboat's time over its own."""
    rows = result["contestants"]
    at_work = [name for name in gradients if "failed" not in rows[name]]
    result["reference"] = next((name for name in ("torch", "jittor", "jboat") if name in at_work), None)
    ours = rows.get("jboat", {}).get("ms")
    for name in at_work:
        rows[name]["off"] = _distance(gradients[name], gradients[result["reference"] or name])
        if "ms" in rows[name]:
            rows[name]["jboat_ratio"] = ours / rows[name]["ms"] if ours else None


def _distance(found: np.ndarray, exact: np.ndarray) -> float:
    """How far off a hypergradient is, as a part of the exact one, which may be zero."""
    distance, size = float(np.linalg.norm(found - exact)), float(np.linalg.norm(exact))
    return distance / size if size else (float("inf") if distance else 0.0)


def _absent(args: argparse.Namespace) -> dict[str, str]:
    """Why contestants that cannot run cannot, after installing what is missing and may be."""
    reasons = {}
    for name in args.only:
        try:
            interpreter(name, args.torch_python, install=not args.no_install)
        except RuntimeError as error:
            reasons[name] = str(error)
    return reasons


def _summary() -> str:
    """The cells that lie in benchmarks/results, in short."""
    names = [f"{beginning}{problem}" for problem in LOWER_ITERS for beginning in ("", "k50_", "solver5_")]
    paths = [path for name in names if (path := RESULTS / f"{name}.json").exists()]
    cells = [cell for path in paths for cell in json.loads(path.read_text())]
    return summary(cells, [name for name in CONTESTANTS if name != "jboat"])


def _options() -> argparse.Namespace:
    usual = [problem for problem in LOWER_ITERS if problem not in ON_A_GPU]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", default=usual, choices=list(LOWER_ITERS))
    parser.add_argument("--chains", nargs="+", default=[*CHAINS, *MAML_CHAINS], choices=[*CHAINS, *MAML_CHAINS])
    parser.add_argument("--lower-iters", type=int, nargs="+", help="K (default: 10; 5 for cnn and maml, 3 for resnet)")
    parser.add_argument(
        "--iterations", type=int, default=ITERATIONS, help="of the solvers of CG and NS (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=20, help="timed steps (default: %(default)s)")
    parser.add_argument("--only", nargs="+", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    parser.add_argument("--patience", type=float, default=240.0, help="seconds for an answer (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds in which to come to an end")
    parser.add_argument("--slow", action="store_true", help="do not leave out what compiles for a quarter of an hour")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--samples", type=int, help="samples a batch, instead of the problem's own")
    parser.add_argument("--pixels", type=int, help="height and width of images, instead of 32")
    parser.add_argument("--torch-python", help="a Python that has PyTorch (default: that of build/peers/torch)")
    parser.add_argument(
        "--no-install", action="store_true", help="install nothing: what is missing is a line that says so"
    )
    parser.add_argument(
        "--output", type=Path, default=RESULTS, help="folder of the tables (default: benchmarks/results)"
    )
    parser.add_argument("--name", default="", help="beginning of the names of the files")
    return parser.parse_args()


def main() -> None:
    """Run the cells and write the tables."""
    args = _options()
    deadline = time.monotonic() + args.limit
    signal.signal(signal.SIGTERM, _end)
    args.output.mkdir(parents=True, exist_ok=True)
    absent = _absent(args)
    for problem in args.problems:
        cells: list[dict[str, Any]] = []
        path = args.output / f"{args.name}{problem}"
        for lower_iters in args.lower_iters or [LOWER_ITERS[problem]]:
            for chain in args.chains:
                if (problem == "maml") != (chain in MAML_CHAINS):
                    continue
                cells.append({})
                for cells[-1] in run_cell(problem, chain, lower_iters, args, absent=absent, deadline=deadline):
                    path.with_suffix(".json").write_text(json.dumps(cells, indent=1) + "\n")
                    path.with_suffix(".md").write_text(table(cells) + "\n")
                print(table(cells[-1:]).split("\n", 2)[2], flush=True)
    if args.output == RESULTS:
        (RESULTS / "summary.md").write_text(_summary() + "\n")


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
