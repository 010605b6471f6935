"""Where the time of an outer step goes: Python, Jittor's graphs, its start of kernels, and the kernels themselves.

Linux's ``perf`` samples the main thread of a contestant of ``peers.py`` while that takes its steps. A sample belongs to
what the innermost known frame belongs to; one inside Jittor's core belongs to the start of kernels if it lies below the
executor, else to graphs. Needs ``perf``, which the system's package manager has.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
import re
import shutil
import signal
import subprocess
import sys
import tempfile

from contestant_process import Process
from peers import COMPILES_LONG, CONTESTANTS, LOWER_ITERS

PARTS = {
    "python": "Python",
    "graphs": "Jittor: building graphs, `grad`",
    "start": "Jittor: starting kernels",
    "products": "products and convolutions",
    "kernels": "other kernels",
}
CELLS = [
    *(f"l2/{chain}" for chain in ("RAD", "VFO", "PGDO")),
    *(f"cleaning/{chain}" for chain in ("RAD", "GDA+RAD", "VFO")),
    *(f"mlp/{chain}" for chain in ("RAD", "IGA", "VFO", "PGDO", "MESO")),
    *(f"cnn/{chain}" for chain in ("RAD", "VFO", "MESO")),
    "maml/IAD",
]
HERTZ = 1999
MOST_STEPS = 100  # some problems diverge later
STACK_BYTES = 16384
WARM_UP = 5
FRAME = re.compile(r"^\s+[0-9a-f]+ (?P<symbol>.*) \((?P<file>[^()]*)\)$")


def samples(recorded: Path) -> Iterator[list[tuple[str, str]]]:
    """Every sample's frames as (function, file), innermost first."""
    command = ["perf", "script", "--input", str(recorded), "--no-inline", "--fields", "ip,sym,dso"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for block in text.split("\n\n"):
        frames = [match.group("symbol", "file") for line in block.splitlines() if (match := FRAME.match(line))]
        if frames:
            yield frames


def part(frames: list[tuple[str, str]]) -> str:
    """The part of a step that a sample belongs to."""
    for place, (_, file) in enumerate(frames):
        name = file.rsplit("/", 1)[-1]
        if "dnnl" in name or name.startswith(("mkl_", "perf-")):  # the last is what oneDNN generates
            return "products"
        if "/custom_ops/" in file and any("jittor::multiply" in symbol for symbol, _ in frames[place:]):
            return "products"
        if "/jit/" in file or "/custom_ops/" in file:
            return "kernels"
        if name.startswith(("jittor_core", "jit_utils", "jittor_jit")):
            starting = any("Executor::run_sync" in symbol for symbol, _ in frames[place:])
            return "start" if starting else "graphs"
        if "python" in name:
            return "python"
    return "other"


def measure(contestant: str, problem: str, chain: str, seconds: float) -> dict[str, float]:
    """Milliseconds of a step, in all and in each part, from at most so many seconds of steps."""
    process = Process(contestant, problem, chain, LOWER_ITERS[problem])
    try:
        with tempfile.TemporaryDirectory() as folder:
            process.ask(f"gradient {folder}/gradient.npy", 600.0)
            for _ in range(WARM_UP):
                process.ask("step", 600.0)
            recorded = Path(folder) / "perf.data"
            options = ["--event", "cpu-clock", "--freq", str(HERTZ), "--call-graph", f"dwarf,{STACK_BYTES}"]
            recorder = subprocess.Popen(
                ["perf", "record", "--quiet", *options, "--tid", str(process.pid), "--output", str(recorded)]
            )
            taken: list[float] = []
            while sum(taken) < 1000.0 * seconds and len(taken) < MOST_STEPS:
                taken.append(process.ask("step", 600.0)["ms"])
            recorder.send_signal(signal.SIGINT)
            recorder.wait()
            counts = Counter(part(frames) for frames in samples(recorded))
    finally:
        process.kill()
    total = sum(taken) / len(taken)
    return {"all": total} | {name: total * counts[name] / counts.total() for name in (*PARTS, "other")}


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", default=CELLS, help="problem/chain (default: %(default)s)")
    parser.add_argument("--only", nargs="+", default=["jboat", "jittor"], help="contestants (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="sampled in each cell at most (default: %(default)s)"
    )
    args = parser.parse_args()
    if not shutil.which("perf"):
        sys.exit("where_time_goes.py needs perf: install your system's package of it (linux-perf, linux-tools)")
    print(f"| problem | chain | contestant | ms a step | {' | '.join(PARTS.values())} | other |")
    print("| --- " * (5 + len(PARTS)) + "|")
    for problem, chain in (cell.split("/") for cell in args.cells):
        for contestant in args.only:
            if chain in CONTESTANTS[contestant] and chain not in COMPILES_LONG.get(contestant, ()):
                ms = measure(contestant, problem, chain, args.seconds)
                numbers = " | ".join(f"{v:.1f}" for v in ms.values())
                print(f"| {problem} | {chain} | {contestant} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
