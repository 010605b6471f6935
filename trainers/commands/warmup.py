"""``python -m jboat warmup``: compile what a job needs ahead of time.

Jittor compiles a kernel when it first meets it, and keeps it. Outer steps, K, batch sizes and epochs share their
kernels, so that a run of a few steps compiles what a long one needs.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os
from pathlib import Path
import runpy
import sys
import tempfile
import time
from typing import Any

from jboat.trainers.bilevel_trainer import BilevelTrainer
from jboat.trainers.commands import train
import jittor as jt

STEPS = 3


def main(*, config: str | None, example: str, arguments: list[str]) -> int:
    """Run a job for a few steps, without keeping its files, and print what was compiled.

    Args:
        config: a configuration, as ``train`` takes it, or None for an example.
        example: the name of a program in the folder ``examples``, or the path of any program that calls ``fit``.
        arguments: for ``example``, its command line.

    Returns:
        0; 2 where there is nothing to run, with the reason printed.
    """
    program = _found(example)
    if config is None and program is None:
        known = ", ".join(sorted(path.stem for path in Path("examples").glob("*.py"))) or "none"
        print(f"error: no program {example!r}; in the folder examples: {known}", file=sys.stderr)
        return 2
    before, begun = _kernels(), time.perf_counter()
    with _short_fits():
        status = _run_config(config) if config is not None else _run(program, arguments)
    if status:
        return status
    jt.sync_all(True)
    new = len(_kernels() - before)
    print(f"{new} kernels compiled, {len(before) + new} in the cache, {time.perf_counter() - begun:.0f} s")
    return 0


def _found(example: str) -> Path | None:
    for path in (Path(example), Path("examples") / f"{example}.py"):
        if path.is_file():
            return path.resolve()
    return None


def _run(program: Path | None, arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        output = os.path.join(folder, "output")
        command = [str(program), *arguments, *([] if "--output" in arguments else ["--output", output])]
        before, sys.argv = sys.argv, command
        try:
            with contextlib.redirect_stdout(sys.stderr):
                runpy.run_path(str(program), run_name="__main__")
        finally:
            sys.argv = before
    return 0


def _run_config(path: str) -> int:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        return train.train(path, [f"logger_dir={folder}"])


@contextlib.contextmanager
def _short_fits() -> Iterator[None]:
    original = BilevelTrainer.fit

    def fit(self: BilevelTrainer, *args: Any, **kwargs: Any) -> Any:
        limits: dict[str, Any] = {"max_steps": STEPS, "max_epochs": None, "max_time": None, "resume_from": None}
        if kwargs.get("val_loader") is not None:
            limits["val_every"] = 1
        return original(self, *args, **{**kwargs, **limits})

    BilevelTrainer.fit = fit  # type: ignore[method-assign]
    try:
        yield
    finally:
        BilevelTrainer.fit = original  # type: ignore[method-assign]


def _kernels() -> set[str]:
    folder = Path(jt.flags.cache_path) / "jit"
    return {path.name for path in folder.glob("*.so")} if folder.is_dir() else set()
