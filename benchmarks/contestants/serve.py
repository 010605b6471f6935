"""What every contestant does: build itself, then take steps when told to, in a process of its own."""

from __future__ import annotations

import argparse
from collections.abc import Callable
import json
import os
import resource
import sys
import time
from typing import Any, NamedTuple

import benchmark_problems
import numpy as np

FIRST_ORDER = ("VFO", "PGDO", "MESO")
OPTIONS: dict[str, dict[str, Any]] = {
    "CG": {"tolerance": 0.0},
    "FD": {"r": 0.01},
    "GDA": {"alpha_init": 0.1, "alpha_decay": 0.9},
    "DI": {"lr": 0.1},
    "VFO": {"y_hat_lr": 0.1, "u1": 0.5},
    "PGDO": {"y_hat_lr": 0.1, "gamma_init": 0.1, "gamma_max": 1.0, "gamma_argmax_step": 100, "penalty": "value"},
    "MESO": {"eta": 0.1, "gamma_1": 1.0, "c0": 0.5},
}


class Task(NamedTuple):
    """What to run: problem, chain, K, iterations of CG and NS, ``"cpu"`` or ``"cuda"``, and sizes other than usual.

    ``together`` is how many tasks are computed at once, where a contestant can.
    """

    problem: str
    chain: str
    lower_iters: int
    iterations: int
    device: str = "cpu"
    samples: int | None = None
    pixels: int | None = None
    tasks: int | None = None
    hidden: int | None = None
    features: int | None = None
    together: int = 1

    def definition(self) -> benchmark_problems.Problem:
        """The problem's arrays."""
        names = ("samples", "pixels", "tasks", "hidden", "features")
        return benchmark_problems.make(self.problem, **{name: getattr(self, name) for name in names})

    @property
    def operators(self) -> dict[str, Any]:
        """``gm_op``, ``na_op`` and ``fo_op`` of the chain, such as ``"DI+RAD"``."""
        if self.chain in FIRST_ORDER:
            return {"gm_op": None, "na_op": None, "fo_op": self.chain}
        names = self.chain.split("+")
        dynamics = [n for n in names if n in ("GDA", "DI")]
        return {"gm_op": [*dynamics, "NGD"], "na_op": [n for n in names if n not in dynamics], "fo_op": None}

    @property
    def solver_config(self) -> dict[str, dict[str, Any]]:
        """Options, under the names that jboat and BOAT share; those of operators that do not run are left out."""
        used = set(self.chain.split("+")) | ({"CG"} if self.chain == "NS" else set())
        of_task = {"RGT": {"truncate_iter": self.lower_iters // 2}, "CG": {"k": self.iterations}}
        named = {*OPTIONS, *of_task} & used
        return {name: {**OPTIONS.get(name, {}), **of_task.get(name, {})} for name in named}


class Session:
    """The commands ``gradient PATH``, ``step`` and ``end``, a line each, and their answers, a line of JSON each."""

    def __init__(self, at_end: Callable[[], dict[str, float]]) -> None:
        self._at_end = at_end
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what a library prints must not be taken for an answer
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        self._first = time.perf_counter()
        self._begun = self._processor = 0.0

    def answer(self, **values: float) -> None:
        """Answer a command."""
        self._answers.write(json.dumps(values) + "\n")
        self._answers.flush()

    def wants_step(self) -> bool:
        """Wait for the next command: True to take a step, False to end."""
        if sys.stdin.readline().strip() == "step":
            self._begun, self._processor = time.perf_counter(), time.process_time()
            return True
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        self.answer(peak_mb=peak, **self._at_end())
        return False

    def done(self) -> None:
        """Tell that the step has ended."""
        now, processor = time.perf_counter(), time.process_time() - self._processor
        self.answer(ms=1000 * (now - self._begun), processor_ms=1000 * processor, since_start=now - self._first)


class Contestant:
    """One library on one task; subclasses define ``hypergradient``, and ``step`` or ``run``."""

    def hypergradient(self) -> np.ndarray:
        """The hypergradient at the start, flat."""
        raise NotImplementedError

    def step(self) -> None:
        """One outer step, finished when it returns."""
        raise NotImplementedError

    def run(self, session: Session) -> None:
        """Take steps as long as they are wanted."""
        while session.wants_step():
            self.step()
            session.done()


def serve(
    make: Callable[[Task], Contestant],
    kernels: Callable[[], int] = lambda: 0,
    gpu_memory: Callable[[], int] = lambda: 0,
) -> None:
    """Build a contestant, compute its hypergradient, then take steps when told to.

    Args:
        make: builds the contestant.
        kernels: how many compiled kernels this process has loaded.
        gpu_memory: the most bytes that the library has taken from the GPU, asked for on CUDA alone.
    """
    parser = argparse.ArgumentParser()
    for name in ("problem", "chain"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--lower-iters", type=int, required=True)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    for name in ("samples", "pixels", "tasks", "hidden", "features"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--together", type=int, default=1)
    task = Task(**vars(parser.parse_args()))

    def at_end() -> dict[str, float]:
        memory = {"gpu_mb": gpu_memory() / 2**20} if task.device == "cuda" else {}
        return {"kernels": float(kernels()), **memory}

    session = Session(at_end)
    contestant = make(task)
    np.save(sys.stdin.readline().strip().removeprefix("gradient "), contestant.hypergradient())
    session.answer(saved=1.0)
    contestant.run(session)
