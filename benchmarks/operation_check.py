"""Operations of ``operation_probes.py`` one after the other in one process: a row of JSON for each in a file.

Run by ``operation_tour.py``, which starts it again where an operation ends it. The value of an operation and its first
and second derivatives are compared with those of plain Jittor on the CPU, or its derivatives with central differences.
What is differentiated is half a weighted sum of squares of the value, and then a weighted sum of the first derivative.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
import contextlib
import json
from pathlib import Path
import sys
import time
from typing import Any, NamedTuple

import jboat
from jboat.fast_gradients import fast_gradients
import jittor as jt
import numpy as np
from operation_probes import PROBES, Probe
from operation_tour import TOGETHER, UNHEALTHY

ORDERS = ("value", "first", "second")
OFF = {"cpu": 1e-4, "differences": 5e-3}  # more is marked
STEP = 1e-2  # of central differences, the norm of the change
Values = list[list[np.ndarray]]


class Job(NamedTuple):
    """An operation as ``"jboat"`` runs it, inside the trainer's block, or as ``"Jittor"`` itself has it."""

    operation: str
    form: str

    @property
    def probe(self) -> Probe:
        """The operation's probe."""
        return PROBES[self.operation]

    def build(self, arrays: Sequence[np.ndarray], device: str, orders: int = 3) -> list[list[jt.Var]]:
        """Its value and derivatives on the device, not computed yet."""
        function = self.probe.own if self.form == "Jittor" else self.probe.function
        assert function is not None
        block = fast_gradients if self.form == "jboat" else contextlib.nullcontext
        with jt.flag_scope(use_cuda=int(device == "cuda")), block():
            return _build(function, arrays, orders if self.probe.derivatives else 1)

    def reference(self) -> list[list[jt.Var]]:
        """The same by plain Jittor on the CPU, which has right derivatives of all these functions."""
        with jt.flag_scope(use_cuda=0):
            return _build(self.probe.function, self.probe.arrays, 3 if self.probe.derivatives else 1)


def jobs() -> list[Job]:
    """All of them, in their order."""
    forms = {name: ["jboat", *["Jittor"] * (probe.own is not None)] for name, probe in PROBES.items()}
    return [Job(name, form) for name, of_probe in forms.items() for form in of_probe]


def _weights(shape: Sequence[int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.5, 1.5, shape).astype(np.float32)


def _build(function: Callable[..., Any], arrays: Sequence[np.ndarray], orders: int) -> list[list[jt.Var]]:
    inputs = [jt.array(array) for array in arrays]
    out = function(*inputs)
    found = [out if isinstance(out, list) else [out]]
    if orders > 1:
        halves = (out.float32() * out.float32() * jt.array(_weights(out.shape, 1))).sum() * 0.5
        found.append(jt.grad(halves, inputs))
    if orders > 2:
        weighted = [(g * jt.array(_weights(g.shape, 2))).sum() for g in found[1]]
        found.append(jt.grad(sum(weighted[1:], weighted[0]), inputs))
    return found


def _computed(built: list[list[jt.Var]], device: str) -> Values:
    with jt.flag_scope(use_cuda=int(device == "cuda")):
        jt.sync([variable for order in built for variable in order])
        return [[variable.numpy() for variable in order] for order in built]


def prepare(batch: Sequence[Job], device: str, reference: str) -> None:
    """Compile what a few operations need at once, which Jittor does in parallel; what fails is found out later."""
    builds: dict[str, Callable[[Job], list[list[jt.Var]]]] = {"cpu": Job.reference} if reference == "cpu" else {}
    for on, build in [(device, lambda job: job.build(job.probe.arrays, device)), *builds.items()]:
        pending: list[jt.Var] = []
        with contextlib.suppress(Exception), jt.flag_scope(use_cuda=int(on == "cuda")):
            for job in batch:
                with contextlib.suppress(Exception):
                    pending += [variable for order in build(job) for variable in order]
            jt.sync(pending)


def check(job: Job, device: str, reference: str) -> dict[str, Any]:
    """The row of an operation: how far off each order is, in words, whether all are right, and how long it took."""
    begun = time.perf_counter()
    row: dict[str, Any] = {"operation": job.operation, "form": job.form}
    orders = ORDERS if job.probe.derivatives else ORDERS[:1]
    right = True
    wanted = _computed(job.reference(), "cpu") if reference == "cpu" else None
    for number, (order, found) in enumerate(zip(orders, _orders(job, device, len(orders)), strict=True)):
        if isinstance(found, Exception):
            print(f"{job.operation}, {job.form}, {order}: {found}", flush=True)
            row[order] = f"**{type(found).__name__}: {_reason(str(found))}**"
            right = False
        elif wanted is not None or number:
            exact = None if wanted is None else wanted[number]
            off = _by_differences(job, device, found, number) if exact is None else _distance(found[number], exact)
            fine = off <= OFF[reference]
            row[order] = f"{off:.1e}" if fine else f"**{off:.1e}**"
            right = right and fine
    return {**row, "right": right, "seconds": time.perf_counter() - begun}


def _orders(job: Job, device: str, count: int) -> list[Values | Exception]:
    """What was computed, for every order: everything at once, or up to that order where that fails."""
    try:
        return [_computed(job.build(job.probe.arrays, device, count), device)] * count
    except Exception as error:
        if count == 1:
            return [error]
    found: list[Values | Exception] = []
    for orders in range(1, count + 1):
        try:
            found.append(_computed(job.build(job.probe.arrays, device, orders), device))
        except Exception as error:
            found.append(error)
    return found


def _distance(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
    """The largest difference, as a part of the largest number."""
    worst = 0.0
    for a, b in zip(found, wanted, strict=True):
        if a.shape != b.shape:
            return float("inf")
        if a.size:
            x, y = a.astype(np.float64), b.astype(np.float64)
            off = float(np.abs(x - y).max() / (np.abs(y).max() or 1.0))
            worst = max(worst, off if off == off else float("inf"))
    return worst


def _by_differences(job: Job, device: str, found: Values, number: int) -> float:
    """How far a derivative along a direction, half its own and half a random one, is from a central difference."""
    rng = np.random.default_rng(3)
    random = [rng.normal(size=g.shape) for g in found[number]]
    direction = [_unit(found[number], g) + _unit(random, d) for g, d in zip(found[number], random, strict=True)]
    direction = [_unit(direction, d) for d in direction]
    sides = []
    for sign in (1.0, -1.0):
        moved = [(a + sign * STEP * d).astype(np.float32) for a, d in zip(job.probe.arrays, direction, strict=True)]
        values = _computed(job.build(moved, device, number), device)[number - 1]
        sides.append(sum(_scalar(value, number) for value in values))
    by_differences = (sides[0] - sides[1]) / (2.0 * STEP)
    derivative = sum(float((g.astype(np.float64) * d).sum()) for g, d in zip(found[number], direction, strict=True))
    return abs(derivative - by_differences) / (abs(by_differences) or 1.0)


def _scalar(values: np.ndarray, number: int) -> float:
    """What is differentiated to get the derivative of this order."""
    weights, x = _weights(values.shape, number).astype(np.float64), values.astype(np.float64)
    return float(0.5 * (x * x * weights).sum() if number == 1 else (x * weights).sum())


def _unit(of: Sequence[np.ndarray], array: np.ndarray) -> np.ndarray:
    norm = np.sqrt(sum(float((a.astype(np.float64) ** 2).sum()) for a in of))
    return array.astype(np.float64) / (norm or 1.0)


def _reason(message: str) -> str:
    """The line of a message that tells the most."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    telling = [line for line in lines if "error" in line.lower()] or lines[-1:] or ["no message"]
    return telling[0][:120]


def healthy(device: str) -> bool:
    """Whether Jittor still computes, which it does no more after some errors of a GPU."""
    try:
        with jt.flag_scope(use_cuda=int(device == "cuda")):
            return bool((jt.array([1.0, 2.0]) + 1.0).numpy().tolist() == [2.0, 3.0])
    except Exception:
        return False


def _batches(wanted: Sequence[Job], alone: int) -> Iterator[Sequence[Job]]:
    """The first so many by themselves, the others several at once."""
    for job in wanted[:alone]:
        yield [job]
    for start in range(alone, len(wanted), TOGETHER):
        yield wanted[start : start + TOGETHER]


def main() -> int:
    """Check the operations; returns UNHEALTHY where the rest needs another process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", required=True, choices=["cpu", "cuda"])
    parser.add_argument("--reference", required=True, choices=list(OFF))
    parser.add_argument("--rows", type=Path, required=True, help="the file, which is gone on with")
    parser.add_argument("--only", nargs="+", metavar="OPERATION", choices=list(PROBES))
    parser.add_argument("--done", nargs="*", default=[], metavar="OPERATION/FORM")
    parser.add_argument("--alone", type=int, default=0, help="so many operations are compiled one by one")
    args = parser.parse_args()
    if args.device == "cuda" and not jt.has_cuda:
        sys.exit("Jittor runs without CUDA; `python -m jboat doctor` says what is missing")
    chosen = [job for job in jobs() if args.only is None or job.operation in args.only]
    with args.rows.open("a") as file:

        def write(row: dict[str, Any]) -> None:
            file.write(json.dumps(row) + "\n")
            file.flush()

        if not args.rows.stat().st_size:
            beside = "plain Jittor on the CPU" if args.reference == "cpu" else "central differences"
            marked = f"the largest difference from {beside}, relative; more than {OFF[args.reference]:.0e} is bold"
            write({"heading": f"jboat {jboat.__version__}: {marked}.", "jobs": ["/".join(job) for job in chosen]})
        for batch in _batches([job for job in chosen if "/".join(job) not in args.done], args.alone):
            if len(batch) > 1:
                prepare(batch, args.device, args.reference)
                if not healthy(args.device):
                    sys.exit("one of several operations failed for good")
            for job in batch:
                write({"operation": job.operation, "form": job.form, "value": "begun"})
                row = check(job, args.device, args.reference)
                write(row)
                if not row["right"] and not healthy(args.device):
                    return UNHEALTHY
    return 0


if __name__ == "__main__":
    sys.exit(main())
