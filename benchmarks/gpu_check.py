"""What runs on this machine's GPU: the doctor, every operation, the main example, the benchmark, the exactness tests.

Every step is a process of its own with a limit of its own, and the rest go on where one fails, hangs or crashes. The
table is written anew after each, so that what was seen stays, whatever stops this program. Nothing comes from the
network.

The cheap and the certain come first. The doctor compiles Jittor's core, which nothing works without; the tour says
which operations are right, in the light of which everything later is read; one chain runs in half precision; the
example shows that a whole run goes through. The benchmarks follow with small models, then the exactness tests, which
compile hundreds of kernels. A ResNet-18 comes last: it compiles the most, and nothing else depends on it. What a step
leaves of its time goes to those after it, and a share is kept for each.

A later run with ``--steps`` replaces the lines of these steps and keeps the others, and finds all kernels compiled.
Everything runs in the tests' home, so that Jittor's core is compiled once.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import os
from pathlib import Path
import signal
import site
import sys
import time
from types import FrameType
from typing import NamedTuple

from contestant_process import default_torch_python
from graphics_card import GraphicsCard, find
from limited_command import Outcome, run
from step_table import Record, StepTable, last_line

ROOT = Path(__file__).parents[1]
LAB = ROOT / ".jittor-lab"
RESULTS = ROOT / "benchmarks" / "results"
LIMIT = 530.0  # seconds
SHORTEST = 5.0  # seconds; in fewer nothing could be seen
ENDING = 5.0  # seconds before its limit at which a benchmark ends by itself
GROUPS = {"bench": ("l2", "mlp", "cnn", "resnet")}
EXACTNESS = ["na_ol/test_exactness.py", "na_ol", "test_autodiff.py", "test_nn.py", "test_optim.py", "fo_ol"]
CHAINS = ["RAD", "CG", "FD", "MESO"]
CONTESTANTS = ["jboat", "torch", "jittor", "boat_jit", "boat_torch"]


class Step(NamedTuple):
    """A command of its own.

    Attributes:
        name: what ``--steps`` calls it.
        command: program and arguments; ``SECONDS`` in them stands for the time that it is given.
        limit: at most so many seconds, out of those that ``--limit`` gives.
        share: so many are kept for it while the steps before it run.
    """

    name: str
    command: list[str]
    limit: float
    share: float = 0.0


def all_steps(output: Path, torch_python: str, device: str) -> list[Step]:
    """The steps in their order.

    Args:
        output: the folder that they write to.
        torch_python: the Python that has PyTorch.
        device: ``"cuda"``, or ``"cpu"`` for a rehearsal.
    """

    def python(program: str, *arguments: str) -> list[str]:
        return [sys.executable, str(ROOT / program), *arguments]

    def bench(problem: str, *chains: str) -> list[str]:
        chosen = ["--problems", problem, "--chains", *chains, "--only", *CONTESTANTS, "--torch-python", torch_python]
        places = ["--device", device, "--output", str(output), "--limit", "SECONDS", "--no-install"]
        return python("benchmarks/peers.py", *chosen, *places)

    example = ["--device", device, "--steps", "30", "--output", f"{output}/example"]
    half = ["--problems", "mlp", "--only", "RAD", "--output", str(output), *(["--time"] if device == "cuda" else [])]
    versions = str(ROOT / "benchmarks" / "library_versions.py")
    tests = [str(ROOT / "tests" / "test_jboat" / name) for name in EXACTNESS]
    return [
        Step("doctor", [sys.executable, "-m", "jboat", "doctor"], 170.0),
        Step("jittor", [sys.executable, versions, "jittor"], 30.0),
        Step("torch", [torch_python, versions, "pytorch"], 30.0),
        Step("tour", python("benchmarks/operation_tour.py", "--device", device, "--output", str(output)), 130.0, 70.0),
        Step("half", python("benchmarks/half_precision.py", "--device", device, *half), 60.0, 20.0),
        Step("example", python("examples/data_hyper_cleaning.py", *example), 60.0, 25.0),
        Step("l2", bench("l2", *CHAINS), 70.0, 40.0),
        Step("mlp", bench("mlp", *CHAINS), 60.0, 20.0),
        Step("cnn", bench("cnn", *CHAINS), 90.0, 45.0),
        Step("tests", [sys.executable, "-m", "pytest", "-vv", "--tb=short", "-pno:cacheprovider", *tests], LIMIT, 50.0),
        Step("resnet", [*bench("resnet", "RAD", "CG"), "--iterations", "3", "--steps", "6"], LIMIT, 90.0),
    ]


def environment(device: str) -> dict[str, str]:
    """The environment of every step."""
    chosen = dict(os.environ)
    chosen.pop("JITTOR_HOME", None)
    chosen.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    # where packages of the user's own lie does not move with the home
    chosen |= {"HOME": str(LAB), "PYTHONUSERBASE": site.getuserbase(), "PYTHONUNBUFFERED": "1"}
    return chosen | {"JBOAT_TEST_DEVICE": device}


def run_steps(
    steps: Sequence[Step], table: StepTable, limit: float, *, folder: Path, variables: Mapping[str, str]
) -> bool:
    """Run the steps one after the other; whether all passed.

    Args:
        steps: what to run.
        table: keeps how each went.
        limit: seconds for all of them.
        folder: where they run.
        variables: their environment.
    """
    deadline = time.monotonic() + limit
    passed = True
    for number, step in enumerate(steps):
        begun = time.strftime("%Y-%m-%d %H:%M:%S")
        left = deadline - time.monotonic()
        kept = sum(later.share for later in steps[number + 1 :])
        seconds = min(step.limit, max(left - kept, min(step.share, left)))
        if seconds < SHORTEST:
            table.put(Record(step.name, "no time left", 0.0, begun, ""))
            passed = False
            continue
        log = table.log(step.name)
        log.unlink(missing_ok=True)
        table.put(Record(step.name, f"running, for at most {seconds:.0f} s", 0.0, begun, ""))
        print(f"{step.name}, at most {seconds:.0f} s: ", end="", flush=True)
        command = [f"{seconds - ENDING:.0f}" if part == "SECONDS" else part for part in step.command]
        outcome = Outcome("interrupted", 0.0)
        try:
            outcome = run(command, log, seconds, environment=variables, folder=folder)
        finally:
            last = last_line(log.read_text(errors="replace"))
            table.put(Record(step.name, outcome.result, outcome.seconds, begun, last))
            print(f"{outcome.result} after {outcome.seconds:.0f} s: {last}", flush=True)
        passed = passed and outcome.passed
    return passed


def _seconds(text: str) -> float:
    """A time limit of the command line."""
    seconds = float(text)
    if not 0.0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, got {text}")
    return seconds


def _folder(text: str) -> Path:
    """A folder of the command line, which need not be there yet."""
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"must be a folder, and {text} is a file")
    return path


def main() -> int:
    """Run the steps; returns 0 if all passed."""
    names = [step.name for step in all_steps(RESULTS, "", "cuda")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", nargs="+", metavar="STEP", choices=[*names, *GROUPS], help=", ".join(names))
    parser.add_argument("--limit", type=_seconds, default=LIMIT, help="seconds for all steps (default: %(default)s)")
    parser.add_argument("--output", type=_folder, help="folder of the table and the logs (default: benchmarks/results)")
    parser.add_argument("--torch-python", default=default_torch_python(), help="which has PyTorch (%(default)s)")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu: rehearse without a GPU")
    args = parser.parse_args()
    card = find()
    if card is None and args.device == "cuda":
        print(
            "no usable GPU: neither nvidia-smi nor the driver finds one; `python -m jboat doctor` says what is missing"
        )
        return 1
    chosen = {name for chosen in args.steps or names for name in GROUPS.get(chosen, (chosen,))}
    path = (args.output or RESULTS).resolve() / "gpu.md"
    folder = path.parent if args.output else path.parent / "gpu"
    for made in (folder, LAB):
        made.mkdir(parents=True, exist_ok=True)
    variables = environment(args.device)
    table = StepTable(folder, path, heading(card if args.device == "cuda" else None, variables), names)
    signal.signal(signal.SIGTERM, _end)
    steps = [step for step in all_steps(folder, args.torch_python, args.device) if step.name in chosen]
    passed = run_steps(steps, table, args.limit, folder=folder, variables=variables)
    print(f"\n{path}")
    return int(not passed)


def heading(card: GraphicsCard | None, variables: Mapping[str, str]) -> list[str]:
    """What the machine is, and how its GPU computes, in Markdown."""
    if card is None:
        return ["# A rehearsal on the CPU"]
    override = variables["NVIDIA_TF32_OVERRIDE"]
    precision = "never in TF32" if override == "0" else "in TF32 where a library chooses to"
    return [
        "# What ran on a GPU",
        "",
        f"{card.name}, {card.memory or 'memory unknown'}, driver {card.driver}, {os.cpu_count()} processor cores.",
        f"`NVIDIA_TF32_OVERRIDE={override}` for every library: float32 is computed {precision}.",
    ]


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
