"""How far every chain and method is from float32 where models compute in bf16 and fp16.

    python benchmarks/half_precision.py [--device cuda] [--problems l2 mlp cnn] [--only RAD CG] [--time]

Three outer steps are taken from the same start in float32, bf16 and fp16. What is compared is the direction of x in the
last of them, relative to float32's, so that an error of the steps before counts too. On a CPU half precision is
emulated: computed in float32 with the roundings of a GPU. With ``--time`` a wide network is timed as well, which means
something on a GPU alone. Returns 1 where an error is above what rounding explains.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
import contextlib
import math
import os
from pathlib import Path
import sys
import time
from typing import Any

os.environ.setdefault("JBOAT_EMULATE_HALF", "1")  # of no effect on a GPU

import jboat
from jboat.callbacks import LambdaCallback
from jboat.nn import MaxPool2d
import jittor as jt
from jittor import nn
import numpy as np

PRECISIONS = ("bf16", "fp16")
FEATURES, CLASSES = 20, 5
STEPS, SKIPPED = 3, 16
"""How many steps move x, and how many more may be left out, in which the loss scale of fp16 is halved."""
MOST = {"bf16": 0.1, "fp16": 0.0125}
"""The largest error that passes, of methods that difference nothing."""
DIFFERENCES = ("FD", "GAFFO")
"""Which divide a difference of gradients, and the rounding in it, by a small number."""

ROWS: dict[str, dict[str, Any]] = {
    "RAD": {"na_op": ["RAD"]},
    "RGT + RAD": {"na_op": ["RGT", "RAD"], "solver_config": {"RGT": {"truncate_iter": 2}}},
    "PTT + RAD": {"na_op": ["PTT", "RAD"]},
    "GDA + RAD": {"gm_op": ["GDA", "NGD"], "na_op": ["RAD"]},
    "DI + RAD": {"gm_op": ["DI", "NGD"], "na_op": ["RAD"]},
    "CG": {"na_op": ["CG"], "solver_config": {"CG": {"k": 10}}},
    "NS": {"na_op": ["NS"], "solver_config": {"NS": {"k": 10}}},
    "NYS": {"na_op": ["NYS"]},
    "IGA": {"na_op": ["IGA"]},
    "FD, r = 0.01": {"na_op": ["FD"], "solver_config": {"FD": {"r": 0.01}}},
    "FD, r = 0.1": {"na_op": ["FD"], "solver_config": {"FD": {"r": 0.1}}},
    "FD, r = 1": {"na_op": ["FD"], "solver_config": {"FD": {"r": 1.0}}},
    "IAD": {"na_op": ["IAD"]},
    "FOA + IAD": {"na_op": ["FOA", "IAD"]},
    "IAD + CG": {"na_op": ["IAD", "CG"]},
    "IAD + NS": {"na_op": ["IAD", "NS"]},
    "DM, by RAD": {"gm_op": ["DM", "NGD"], "na_op": ["RAD"]},
    "DM, by CG": {"gm_op": ["DM", "NGD"], "na_op": ["CG"]},
    **{name: {"fo_op": name} for name in ("VFO", "MESO", "PGDO", "VSO", "GAFFO", "ALTO")},
    **{
        name: {"sl_op": name}
        for name in ("SOBA", "MASOBA", "SABA", "SRBA", "MRBO", "SUSTAIN", "STOCBIO", "AMIGO", "F2SA")
    },
}


class Weights(jt.Module):
    """An upper-level model of one array."""

    def __init__(self, size: int) -> None:
        self.values = jt.zeros(size)


def linear() -> jt.Module:
    """The model of l2."""
    return nn.Linear(FEATURES, CLASSES)


def mlp(features: int = FEATURES, hidden: int = 16) -> jt.Module:
    """One hidden layer."""
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))


def cnn() -> jt.Module:
    """One convolution."""
    layers = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), MaxPool2d(2), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(64, CLASSES))


def wide() -> jt.Module:
    """A network whose products are worth a GPU."""
    return mlp(1024, 2048)


PROBLEMS: dict[str, tuple[Callable[[], jt.Module], int, tuple[int, ...]]] = {
    "l2": (linear, 64, (FEATURES,)),
    "mlp": (mlp, 64, (FEATURES,)),
    "cnn": (cnn, 32, (1, 8, 8)),
    "wide": (wide, 8192, (1024,)),
}
"""The lower-level model, how many samples, and the shape of one."""


def batches(samples: int, shape: Sequence[int]) -> list[dict[str, np.ndarray]]:
    """A lower and an upper batch, whose labels can be learned."""
    rng = np.random.default_rng(0)
    teacher = rng.normal(size=(int(np.prod(shape)), CLASSES))
    found = []
    for _ in range(2):
        x = rng.normal(size=(samples, *shape)).astype(np.float32)
        y = (x.reshape(samples, -1) @ teacher + rng.normal(size=(samples, CLASSES))).argmax(1)
        found.append({"x": x, "y": y.astype(np.int32)})
    return found


def trainer(problem: str, row: dict[str, Any], precision: str, device: str, **others: Any) -> jboat.BilevelTrainer:
    """A trainer of a problem, from the same start each time."""
    make, samples, _ = PROBLEMS[problem]
    jt.set_global_seed(1)
    ll_model = make()
    learns_the_start = "IAD" in row.get("na_op", ())
    ul_model = make() if learns_the_start else Weights(FEATURES if problem == "l2" else samples)

    def f(batch: Any, ul_model: Any, ll_model: Any) -> jt.Var:
        losses = nn.cross_entropy_loss(ll_model(batch["x"]), batch["y"], reduction="none")
        trained = [p for p in ll_model.parameters() if not p.is_stop_grad()]
        decay = 0.01 * sum((p * p).sum() for p in trained)
        if learns_the_start:
            return losses.mean() + decay
        if problem == "l2":
            return losses.mean() + 0.1 * (ul_model.values.exp() * ll_model.weight * ll_model.weight).sum()
        return (ul_model.values.sigmoid() * losses).mean() + decay

    def upper(batch: Any, ul_model: Any, ll_model: Any) -> jt.Var:
        return nn.cross_entropy_loss(ll_model(batch["x"]), batch["y"])

    return jboat.BilevelTrainer(
        ll_model,
        ul_model,
        f,
        upper,
        ll_optimizer=jt.optim.SGD(ll_model.parameters(), 0.2),
        ul_optimizer=jt.optim.SGD(ul_model.parameters(), 0.2),
        lower_iters=5,
        device=device,
        seed=0,
        precision=precision,
        **{**row, **others},
    )


def direction(problem: str, row: dict[str, Any], precision: str, device: str) -> np.ndarray | None:
    """The direction of x in the third outer step that moves it, in float64; None where the method is not finite."""
    seen: list[np.ndarray] = []

    def keep(trainer: Any, state: Any, result: Any) -> None:
        if result.skip:  # the loss scale of fp16 is too large still, and nothing moves
            return
        seen.append(np.concatenate([g.numpy().ravel() for g in result.gradients]).astype(np.float64))
        if len(seen) == STEPS:
            state.request_stop()

    _, samples, shape = PROBLEMS[problem]
    lower, upper = batches(samples, shape)
    callbacks = [LambdaCallback(on_before_upper_step=keep)]
    with_callback = trainer(problem, row, precision, device, callbacks=callbacks)
    with contextlib.suppress(jboat.NonFiniteError):
        with_callback.fit([lower], [upper], max_steps=STEPS + SKIPPED, progress=False)
    return seen[-1] if len(seen) == STEPS else None


def measured(problems: Sequence[str], only: Sequence[str], device: str) -> Iterator[tuple[str, str, dict[str, float]]]:
    """The errors of each row on each problem; NaN where float32 is not finite either."""
    for problem in problems:
        for name, row in ROWS.items():
            if only and name not in only:
                continue
            exact = direction(problem, row, "fp32", device)
            errors = {precision: _error(direction(problem, row, precision, device), exact) for precision in PRECISIONS}
            print(f"{problem} {name}: " + ", ".join(f"{p} {e:.1e}" for p, e in errors.items()), flush=True)
            yield problem, name, errors


def _error(found: np.ndarray | None, exact: np.ndarray | None) -> float:
    if exact is None:
        return math.nan
    if found is None:
        return math.inf
    # the direction of a method may be 0, as ALTO's where F does not depend on x itself
    return float(np.linalg.norm(found - exact) / (np.linalg.norm(exact) or 1.0))


def table(found: dict[str, dict[str, dict[str, float]]], problems: Sequence[str]) -> str:
    """The errors as Markdown."""
    heads = [f"{problem}, {precision}" for problem in problems for precision in PRECISIONS]
    lines = [f"| | {' | '.join(heads)} |", f"| --- |{' ---: |' * len(heads)}"]
    for name, of_problems in found.items():
        cells = [
            f"{of_problems[problem][precision]:.1e}" if problem in of_problems else ""
            for problem in problems
            for precision in PRECISIONS
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def timed(device: str, steps: int = 10) -> None:
    """Print the milliseconds of an outer step of RAD on the wide network, in each precision."""
    _, samples, shape = PROBLEMS["wide"]
    lower, upper = batches(samples, shape)
    for precision in ("fp32", *PRECISIONS):
        found = trainer("wide", ROWS["RAD"], precision, device)
        found.fit([lower], [upper], max_steps=3, progress=False)
        jt.sync_all(True)
        begun = time.perf_counter()
        found.fit([lower], [upper], max_steps=3 + steps, progress=False)
        jt.sync_all(True)
        print(f"wide RAD {precision}: {1e3 * (time.perf_counter() - begun) / steps:.1f} ms a step", flush=True)


def main() -> int:
    """Measure; returns 0 where all errors are what rounding explains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="default: %(default)s, emulated")
    parser.add_argument("--problems", nargs="+", default=["l2", "mlp", "cnn"], choices=list(PROBLEMS))
    parser.add_argument("--only", nargs="+", default=[], choices=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--time", action="store_true", help="time a wide network as well")
    parser.add_argument("--output", type=Path, help="folder of half_precision.md")
    args = parser.parse_args()
    found: dict[str, dict[str, dict[str, float]]] = {}
    passed = True
    for problem, name, errors in measured(args.problems, args.only, args.device):
        found.setdefault(name, {})[problem] = errors
        if not name.startswith(DIFFERENCES):
            passed = passed and not any(error > MOST[precision] for precision, error in errors.items())
        if args.output:
            args.output.mkdir(parents=True, exist_ok=True)
            (args.output / "half_precision.md").write_text(table(found, args.problems) + "\n")
    print(table(found, args.problems))
    if args.time:
        timed(args.device)
    return int(not passed)


if __name__ == "__main__":
    sys.exit(main())
