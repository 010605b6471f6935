"""Which chain should I use? One problem, many chains, one table.

The problem: logistic regression on scikit-learn's handwritten digits with one L2 weight per pixel, which the upper
level learns on a validation set. It is small enough for the exact hypergradient, dF/dx at the lower-level solution, in
numpy float64 (Newton's method, then a dense linear system), so the table can say how far each chain is from it: at the
first outer step, from a cold start, and at the last one, from a warm start.

Every chain is run in a process of its own, so that memory is its own too. The columns: milliseconds an outer step;
memory, the growth of the peak resident set while training, in MB; the distance of the hypergradient from the exact one
in percent of the exact one's norm, and the cosine between the two, at the first and at the last step; and the upper
loss, a cross entropy in nats, at the lower-level solution at the end. A first-order method moves x and y at once, along
a direction that is no hypergradient; its cosine still tells how alike they are.

It writes compare.csv, CSV and TensorBoard logs of every chain and, where matplotlib is installed, a picture to the
folder ``--output``.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
import subprocess
import sys
import time

from jboat import BilevelTrainer, TrainerState
from jboat.callbacks import Callback, CSVLogger, TensorBoardLogger
from jboat.trainers.outer_step.result import HyperGradientResult
import jittor as jt
from jittor import nn
import numpy as np

CHAINS = ("RAD", "RGT+RAD", "PTT+RAD", "CG", "NS", "FD", "IGA", "VFO", "PGDO", "MESO", "GAFFO", "ALTO")
FIRST_ORDER = ("VFO", "PGDO", "MESO", "GAFFO", "ALTO")
COLUMNS = ("ms", "memory_mb", "first_error", "first_cosine", "last_error", "last_cosine", "upper_loss")
CLASSES, RATE = 10, 2.0


class PixelPenalties(jt.Module):
    """The logarithm of one L2 weight per pixel."""

    def __init__(self, pixels: int) -> None:
        self.log = jt.zeros((1, pixels)) - 3.0


def penalised_loss(batch: dict, ul_model: jt.Module, ll_model: jt.Module) -> jt.Var:
    """The lower objective: cross entropy and the penalties."""
    loss = nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"])
    return loss + 0.5 * (ul_model.log.exp() * ll_model.weight * ll_model.weight).sum()


def validation_loss(batch: dict, ul_model: jt.Module, ll_model: jt.Module) -> jt.Var:
    """The upper objective: cross entropy on the validation data."""
    return nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"])


def load(seed: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """400 training and 400 validation digits; pixels that are always blank are left out, the others scaled to one."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(x))[:800]
    x, y = x[order], y[order].astype(np.int32)
    x = x[:, x.std(0) > 0.1]
    x = ((x - x.mean(0)) / x.std(0) / np.sqrt(x.shape[1])).astype(np.float32)
    return {"data": x[:400], "target": y[:400]}, {"data": x[400:], "target": y[400:]}


def load_saved(path: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What :func:`load` gave, from a file, so that not every process starts scikit-learn."""
    with np.load(path) as arrays:
        train, val = ({key: arrays[f"{name}_{key}"] for key in ("data", "target")} for name in ("train", "val"))
    return train, val


class Exact:
    """The lower-level solution and the hypergradient there, in float64."""

    def __init__(self, train: dict[str, np.ndarray], val: dict[str, np.ndarray]) -> None:
        self._train, self._val = train, val
        self._start = np.zeros((CLASSES, train["data"].shape[1]))

    def solve(self, log_penalties: np.ndarray) -> tuple[float, np.ndarray]:
        """The upper loss at the solution, and its gradient by the logarithmic penalties."""
        penalties = np.exp(log_penalties.astype(np.float64).ravel())
        w, data = self._start, self._train["data"].astype(np.float64)
        for _ in range(50):
            gradient, p = self._gradient(w, self._train)
            gradient = gradient + penalties * w
            hessian = self._hessian(p, data) + np.diag(np.tile(penalties, CLASSES))
            move = np.linalg.solve(hessian, gradient.ravel())
            w = w - move.reshape(w.shape)
            if np.abs(move).max() < 1e-10:
                break
        self._start = w
        by_w, p = self._gradient(w, self._val)
        q = np.linalg.solve(hessian, by_w.ravel()).reshape(w.shape)
        loss = -np.log(p[np.arange(len(p)), self._val["target"]]).mean()
        return float(loss), -(q * w).sum(0) * penalties

    @staticmethod
    def _gradient(w: np.ndarray, batch: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The gradient of the mean cross entropy, and the probabilities."""
        data, target = batch["data"].astype(np.float64), batch["target"]
        logits = data @ w.T
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        delta = p.copy()
        delta[np.arange(len(p)), target] -= 1.0
        return delta.T @ data / len(p), p

    @staticmethod
    def _hessian(p: np.ndarray, data: np.ndarray) -> np.ndarray:
        pixels = data.shape[1]
        result = np.empty((CLASSES, pixels, CLASSES, pixels))
        for i in range(CLASSES):
            for j in range(i + 1):
                weight = p[:, i] * ((i == j) - p[:, j]) / len(p)
                result[i, :, j] = result[j, :, i] = data.T @ (weight[:, None] * data)
        return result.reshape(CLASSES * pixels, CLASSES * pixels)


class Directions(Callback):
    """Keeps the direction of the first and of the last outer step, and where it was taken, and times the others."""

    def __init__(self) -> None:
        self.taken: list[tuple[np.ndarray, np.ndarray]] = []
        self.seconds: list[float] = []
        self._begun = 0.0

    def on_step_start(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Start the clock."""
        self._begun = time.perf_counter()

    def on_hypergradient_end(self, trainer: BilevelTrainer, state: TrainerState, result: HyperGradientResult) -> None:
        """Keep the direction."""
        if state.step in (0, (state.max_steps or 1) - 1):
            self.taken.append((trainer.ul_var[0].numpy().copy(), result.gradients[0].numpy().ravel().copy()))

    def on_step_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Stop the clock."""
        jt.sync_all(True)
        self.seconds.append(time.perf_counter() - self._begun)


def peak_memory() -> float:
    """The peak resident set of this program, in MB; ``getrusage`` would count what started it too."""
    [kilobytes] = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
    return int(kilobytes) / 1024


def measure(chain: str, args: argparse.Namespace) -> dict[str, float]:
    """Train with one chain in this process."""
    jt.set_global_seed(args.seed)
    train, val = load(args.seed) if args.data is None else load_saved(args.data)
    pixels = train["data"].shape[1]
    ll_model, ul_model = nn.Linear(pixels, CLASSES, bias=False), PixelPenalties(pixels)
    ll_model.weight.assign(jt.zeros((CLASSES, pixels)))
    directions = Directions()
    first_order = chain in FIRST_ORDER
    trainer = BilevelTrainer(
        ll_model,
        ul_model,
        penalised_loss,
        validation_loss,
        ll_optimizer=jt.optim.SGD(ll_model.parameters(), lr=RATE),
        ul_optimizer=jt.optim.Adam(ul_model.parameters(), lr=args.ul_lr),
        **({"fo_op": chain} if first_order else {"na_op": chain.split("+")}),
        lower_iters=args.lower_iters,
        solver_config={
            "RGT": {"truncate_iter": args.lower_iters // 2},
            "PGDO": {"y_hat_lr": RATE, "gamma_init": 1.0, "gamma_max": 10.0, "gamma_argmax_step": args.steps},
            "VFO": {"y_hat_lr": RATE},
            "MESO": {"eta": RATE, "gamma_1": 0.1},
            "GAFFO": {"eta": RATE, "gamma": 10.0},
        },
        callbacks=[directions, CSVLogger(times=False), TensorBoardLogger()],
        logger_dir=Path(args.output) / chain,
        seed=args.seed,
    )
    trainer.hypergradient(train, val)  # compiles what it needs, and changes nothing
    before = peak_memory()
    trainer.fit(train, val, max_steps=args.steps)
    row = {
        "ms": 1000 * float(np.median(directions.seconds[1:] or directions.seconds)),
        "memory_mb": peak_memory() - before,
    }
    exact = Exact(train, val)
    for name, (x, direction) in zip(("first", "last"), directions.taken, strict=False):
        gradient = exact.solve(x)[1]
        length = np.linalg.norm(gradient)
        row[f"{name}_error"] = float(np.linalg.norm(direction - gradient) / length)
        row[f"{name}_cosine"] = float(direction @ gradient / (length * max(1e-30, float(np.linalg.norm(direction)))))
    row["upper_loss"] = exact.solve(ul_model.log.numpy())[0]
    return row


def draw(path: Path, rows: dict[str, dict[str, float]]) -> None:
    """Time against error at the first step, and the final upper losses."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    errors, losses = figure.subplots(1, 2)
    for (chain, row), marker in zip(rows.items(), "os^vDP*X<>hd" * len(rows), strict=False):
        if chain not in FIRST_ORDER:
            errors.scatter(row["ms"], row["first_error"], marker=marker, s=60, label=chain)
    errors.set(xlabel="ms an outer step", yscale="log", title="First hypergradient: |difference from exact| / |exact|")
    errors.grid(alpha=0.3, which="both")
    errors.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    losses.barh(list(rows), [row["upper_loss"] for row in rows.values()])
    losses.invert_yaxis()
    losses.set(xlabel="upper loss (nats) at the lower-level solution", title="After training (less is better)")
    losses.grid(alpha=0.3, axis="x")
    figure.savefig(path, dpi=120)


def run(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Run every chain, print the table, and return its rows."""
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    train, val = load(args.seed)
    saved = output / "data.npz"
    np.savez(saved, **{f"{name}_{k}": v for name, batch in (("train", train), ("val", val)) for k, v in batch.items()})
    before = Exact(train, val).solve(np.full(train["data"].shape[1], -3.0))[0]
    print(f"K = {args.lower_iters}, {args.steps} outer steps; upper loss before: {before:.4f} nats")
    print("error: |hypergradient - exact| / |exact|, exact being dF/dx at the solution of the lower level, in float64")
    print(f"{'':<10}{'time':>9}{'memory':>8}{'first step':>20}{'last step':>20}{'upper loss':>12}")
    print(f"{'':<10}{'ms/step':>9}{'MB':>8}{'error %':>12}{'cosine':>8}{'error %':>12}{'cosine':>8}{'nats':>12}")
    rows: dict[str, dict[str, float]] = {}
    for chain in args.chains:
        names = ("steps", "lower_iters", "ul_lr", "seed")
        options = [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in names]
        command = [sys.executable, __file__, "--one", chain, "--output", str(output), "--data", str(saved), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{chain} failed:\n{done.stderr}")
        rows[chain] = row = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{chain:<10}{row['ms']:>9.1f}{row['memory_mb']:>8.1f}{100 * row['first_error']:>12.4g}"
            f"{row['first_cosine']:>8.3f}{100 * row['last_error']:>12.4g}{row['last_cosine']:>8.3f}"
            f"{row['upper_loss']:>12.4f}",
            flush=True,
        )
    saved.unlink()
    with (output / "compare.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["chain", *COLUMNS])
        writer.writerows([chain, *(row[name] for name in COLUMNS)] for chain, row in rows.items())
    try:
        draw(output / "compare.png", rows)
    except ImportError:
        print("no picture: matplotlib is not installed")
    return rows


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--chains", nargs="+", default=list(CHAINS), help="na_op joined by + or fo_op (default: all)")
    p.add_argument("--lower-iters", type=int, default=20, help="lower steps K (default: %(default)s)")
    p.add_argument("--steps", type=int, default=40, help="outer steps (default: %(default)s)")
    p.add_argument("--ul-lr", type=float, default=0.1, help="Adam's rate at the upper level (default: %(default)s)")
    p.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    p.add_argument("--output", default="runs/compare_operators", help="folder for logs (default: %(default)s)")
    p.add_argument("--one", help=argparse.SUPPRESS)
    p.add_argument("--data", help=argparse.SUPPRESS)
    return p


if __name__ == "__main__":
    given = parser().parse_args()
    if given.one:
        print(json.dumps(measure(given.one, given)))
    else:
        run(given)
