"""Compile and load every CUDA kernel of one outer step of every chain and first-order method, without a GPU.

    .venv-cuda/bin/python tests/cuda_compile.py [--models linear mlp cnn] [--only RAD CG] [--count]

The compiler is real and the libraries are stubs that launch nothing (cuda_stubs/), so that numbers are garbage, and
what is learnt is what nvcc refuses, what does not load, and which launches a device would have refused. Prints a table
and writes it to build/cuda/compile.md after each row, and what it is made of to compile.json beside it. Compiled
kernels are kept in build/cuda/home, so that a run that was stopped can be started again. With --count nothing is
compiled but the core: in some minutes it says, in count.md, how many kernels there are and of which kind. Two runs at
once wait for each other, since Jittor compiles for one process at a time.

A model's rows run in one process, in the table's order. One that fails leaves Jittor with an operation that fails
again, so that the rows after it start in another.
"""

from __future__ import annotations

import argparse
from collections import Counter
import json
import os
from pathlib import Path
import re
import resource
import signal
import subprocess
import sys
import sysconfig
import time

from cuda_stubs import toolkit

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "cuda"
ROWS = BUILD / "compile.json"
TABLE = BUILD / "compile.md"
NO_NVCC = Path(__file__).parent / "cuda_stubs" / "no_nvcc.py"
MODELS = ("operations", "linear", "cnn", "mlp")
UNDER_WAY = "under way"
EXIT_AFTER_FAILURE = 3
_ERROR = re.compile(r"\berror\b|undefined symbol|Segfault|Error:", re.IGNORECASE)


def read() -> list[dict]:
    """The rows so far."""
    return json.loads(ROWS.read_text()) if ROWS.is_file() else []


def write(rows: list[dict]) -> None:
    """Keep the rows, and the table made of them."""
    for path, text in ((ROWS, json.dumps(rows, indent=1)), (TABLE, table(rows))):
        fresh = path.with_suffix(".new")
        fresh.write_text(text + "\n")
        fresh.replace(path)


def table(rows: list[dict]) -> str:
    """What compiled, as Markdown, with a line of totals for each model."""
    lines = [
        "| model | one outer step of | kernels more | compiled | seconds | result |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        result = row["result"].replace("|", "/").replace("\n", "<br>")
        counts = f"{len(row['kernels'])} | {row['compiled']} | {row['seconds']:.0f}"
        lines.append(f"| {row['model']} | {row['step']} | {counts} | {result} |")
    lines.append("")
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        kernels = sum(len(row["kernels"]) for row in own)
        compiled, seconds = sum(row["compiled"] for row in own), sum(row["processor"] for row in own)
        failed = [row["step"] for row in own if row["result"] not in ("ok", UNDER_WAY)]
        passed = sum(row["result"] == "ok" for row in own)
        each = f", {seconds / compiled:.1f} s of the processor each" if compiled else ""
        lines.append(
            f"* {model}: {passed} of {len(own)} ok, {kernels} kernels, {compiled} of them compiled for these rows{each}"
            + (f"; failed: {', '.join(failed)}" if failed else "")
        )
        kinds: Counter[str] = sum((Counter(row["kinds"]) for row in own), Counter())
        lines.append("  * " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()))
    return "\n".join(lines)


def run(models: list[str], only: list[str], count: bool) -> int:
    """Run the models' rows, each model in a process of its own, and print the table; returns 0 if all are ok."""
    begun = time.time()
    (BUILD / "home").mkdir(parents=True, exist_ok=True)
    toolkit.build(BUILD, toolkit.find(Path(sysconfig.get_path("purelib"))))
    environ = toolkit.environment(BUILD)
    environ |= {"HOME": str(BUILD / "home"), "CUDA_STUB_LOG": str(BUILD / "stubs.log")}
    environ.pop("JITTOR_HOME", None)
    for model in models:
        command = [sys.executable, __file__, "--model", model, "--since", str(begun), "--only", *only]
        command += ["--count"] if count else []
        while (status := _child(command, environ, BUILD / f"{model}.log")) != 0:
            rows = read()
            last = rows[-1] if rows and rows[-1]["begun"] >= begun and rows[-1]["model"] == model else None
            if status == EXIT_AFTER_FAILURE:
                continue
            if last is None or last["result"] != UNDER_WAY:
                print((BUILD / f"{model}.log").read_text()[-4000:])
                print(f"{model}: the process ended outside of a row")
                return 1
            last["result"] = f"the process ended: {signal.Signals(-status).name if status < 0 else status}"
            write(rows)
        if not only:  # rows that there are no more
            write([row for row in read() if row["model"] != model or row["begun"] >= begun])
    rows = [row for row in read() if row["model"] in models]
    print(table(rows))
    return int(any(row["result"] != "ok" for row in rows))


def _child(command: list[str], environ: dict[str, str], log: Path) -> int:
    with log.open("a") as output:
        return subprocess.run(command, env=environ, stdout=output, stderr=output, check=False).returncode


class Recorder:
    """Runs the rows of a model that were not begun yet in this run."""

    def __init__(self, model: str, since: float, folder: Path, *, known_since: float | None = None) -> None:
        """Kernels that rows begun after ``known_since`` have loaded, by default those of this run, count for those."""
        self.model = model
        self.since = since
        self.known_since = since if known_since is None else known_since
        self.folder = folder
        self.log = BUILD / f"{model}.log"
        self.launches = BUILD / "stubs.log"

    def run(self, step: str, work) -> None:
        """Run one row, unless that was done; ends the process where it fails."""
        rows = read()
        of_model = [row for row in rows if row["model"] == self.model]
        if any(row["step"] == step and row["begun"] >= self.since for row in of_model):
            return
        others = [row for row in of_model if row["step"] != step and row["begun"] >= self.known_since]
        known = {name for row in others for name in row["kernels"]}
        before = [row for row in of_model if row["step"] == step]
        row = {"model": self.model, "step": step, "begun": time.time(), "kernels": [], "compiled": 0, "seconds": 0.0}
        row |= {"processor": 0.0, "kinds": {}, "result": UNDER_WAY}
        rows = [other for other in rows if (other["model"], other["step"]) != (self.model, step)]
        write([*rows, row])
        files, used = self._compiled(), _processor_seconds()
        log_size, launches_size = _size(self.log), _size(self.launches)
        try:
            work()
            row["result"] = "ok"
        except Exception as error:
            sys.stderr.flush()
            lines = [*str(error).splitlines(), *_since(self.log, log_size).splitlines()]
            telling = list(dict.fromkeys(line.strip()[:300] for line in lines if _ERROR.search(line)))
            row["result"] = "\n".join([f"{type(error).__name__}: {str(error)[:300]}", *telling[:6]])
        bad = [line for line in _since(self.launches, launches_size).splitlines() if line.startswith("bad launch")]
        if bad:
            row["result"] = "\n".join([row["result"], *dict.fromkeys(bad)])
        row["seconds"] = time.time() - row["begun"]
        row["processor"] = _processor_seconds() - used
        row["compiled"] = len(self._compiled() - files)
        row["kernels"] = sorted(_loaded(self.folder) - known)
        row["kinds"] = Counter(_kind((self.folder / name).with_suffix(".cc")) for name in row["kernels"])
        for old in before:
            if not row["compiled"] and old["kernels"] == row["kernels"]:  # what it took once
                row |= {name: old[name] for name in ("compiled", "seconds", "processor")}
        write([*rows, row])
        print(f"{self.model} {step}: {len(row['kernels'])} kernels more, {row['result']}", flush=True)
        if row["result"] != "ok":
            os._exit(EXIT_AFTER_FAILURE)  # what failed is pending still, and Jittor computes it at the end

    def _compiled(self) -> set[str]:
        return {path.name for path in self.folder.glob("*.so")}


def _loaded(folder: Path) -> set[str]:
    """The kernels that this process has loaded from this folder."""
    paths = {Path(line.split(maxsplit=5)[-1]) for line in Path("/proc/self/maps").read_text().splitlines()}
    return {path.name for path in paths if path.suffix == ".so" and path.parent == folder}


def _kind(source: Path) -> str:
    """What a kernel is, by its source: a fused one by what is in it, another by its operation's name."""
    text = source.read_text()
    if "JIT_cpu" in text:
        return "for the CPU"
    if not source.name.startswith("__opkey"):
        return source.name.partition("__")[0]
    if "__global__" not in text:
        return "that launch nothing but hand over to another" if "do_run()" in text else "that copy"
    operations = set(re.findall(r"^#define op\d+_([a-z_]+) *$", text, re.MULTILINE))
    rest = operations & {"reduce", "reindex", "reindex_reduce", "random", "index"}
    return "of elements" + (f" with {' and '.join(sorted(rest))}" if rest else "")


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _since(path: Path, size: int) -> str:
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(size)
        return file.read().decode(errors="replace")


def child(model: str, since: float, only: list[str], count: bool) -> None:
    """Run a model's rows in this process."""
    from cuda_steps import operations, steps
    import jittor as jt

    jt.flags.use_cuda = 1
    if count:
        jt.flags.nvcc_path, jt.flags.cache_path = str(NO_NVCC), str(BUILD / "count")
        (BUILD / "count" / "jit").mkdir(parents=True, exist_ok=True)
    recorder = Recorder(model, since, Path(jt.flags.cache_path) / "jit", known_since=0.0 if only else since)
    for name, work in operations() if model == "operations" else steps(model):
        if not only or name in only:
            recorder.run(name, work)


def main() -> int:
    """Read the arguments and run."""
    global ROWS, TABLE
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--only", nargs="*", default=[], help="rows to run, as they are called in the table")
    parser.add_argument("--count", action="store_true", help="count the kernels, and compile none")
    parser.add_argument("--model", help=argparse.SUPPRESS)  # of a process that runs one model
    parser.add_argument("--since", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.count:
        ROWS, TABLE = BUILD / "count.json", BUILD / "count.md"
    if options.model:
        child(options.model, options.since, options.only, options.count)
        return 0
    try:
        return run(options.models, options.only, options.count)
    except toolkit.CannotBuildError as reason:
        print(f"no CUDA to compile with: {reason}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
