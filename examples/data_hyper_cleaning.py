"""Data hyper-cleaning: learn which training labels are wrong.

A share of the training labels is corrupted. The upper level holds one weight per training sample and minimises the
loss on a small clean validation set; the lower level trains a classifier on the weighted training loss. Weights of
corrupted samples go to zero. (Franceschi et al., "Forward and reverse gradient-based hyperparameter optimization",
ICML 2017.)

By default the data are scikit-learn's 1797 handwritten digits, which come with it; ``--data`` reads MNIST's IDX files.
The program prints test accuracies (a) with all corrupted data, (b) with the learned weights, (c) with the clean part of
the training data alone, and how well the corrupted samples were found. It writes metrics.csv, TensorBoard events and,
where matplotlib is installed, a picture to the folder ``--output``.

``mpirun -np 2 python examples/data_hyper_cleaning.py`` shares the samples out among two processes, which find the same
weights; a batch says which samples it holds, so that each process takes their weights.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path
import struct
import time
from typing import NamedTuple

from jboat import BilevelTrainer
from jboat.callbacks import CSVLogger, ProgressBar, TensorBoardLogger
import jittor as jt
from jittor import nn
import numpy as np


class Data(NamedTuple):
    """Features of shape [n, d] in [0, 1], labels of shape [n], for training, validation and test."""

    train_x: np.ndarray
    train_y: np.ndarray
    val_x: np.ndarray
    val_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


class SampleWeights(jt.Module):
    """One weight per training sample, the sigmoid of a free parameter."""

    def __init__(self, samples: int) -> None:
        self.logits = jt.zeros((samples,))

    def execute(self) -> jt.Var:
        """The weights, shape [samples], each in (0, 1)."""
        return self.logits.sigmoid()


def weighted_loss(batch: dict, ul_model: jt.Module, ll_model: jt.Module) -> jt.Var:
    """The lower objective: cross entropy on the training data, each sample by its weight."""
    losses = nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"], reduction="none")
    return (losses * ul_model()[batch["index"]]).mean() + 1e-4 * sum((p * p).sum() for p in ll_model.parameters())


def validation_loss(batch: dict, ul_model: jt.Module, ll_model: jt.Module) -> jt.Var:
    """The upper objective: cross entropy on the clean validation data."""
    return nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"])


def accuracy(batch: dict, ul_model: jt.Module, ll_model: jt.Module) -> float:
    """The share of samples classified right."""
    predicted = ll_model(batch["data"]).numpy().argmax(1)
    return float((predicted == batch["target"].numpy()).mean())


def load_digits(rng: np.random.Generator) -> Data:
    """800 training, 400 validation and 597 test samples of scikit-learn's 8x8 digits."""
    from sklearn.datasets import load_digits as bundled

    x, y = bundled(return_X_y=True)
    order = rng.permutation(len(x))
    x, y = (x[order] / 16.0).astype(np.float32), y[order].astype(np.int32)
    return Data(x[:800], y[:800], x[800:1200], y[800:1200], x[1200:], y[1200:])


def load_mnist(folder: Path, rng: np.random.Generator) -> Data:
    """5000 training, 5000 validation and 10,000 test samples from MNIST's four IDX files, gzipped or not."""
    x, y = read_idx(folder, "train-images"), read_idx(folder, "train-labels")
    test_x, test_y = read_idx(folder, "t10k-images"), read_idx(folder, "t10k-labels")
    order = rng.permutation(len(x))[:10000]
    x, y = as_features(x[order]), y[order].astype(np.int32)
    half = len(x) // 2
    return Data(x[:half], y[:half], x[half:], y[half:], as_features(test_x), test_y.astype(np.int32))


def as_features(images: np.ndarray) -> np.ndarray:
    """Bytes of shape [n, h, w] as float32 of shape [n, h w] in [0, 1]."""
    return (images.reshape(len(images), -1) / 255.0).astype(np.float32)


def read_idx(folder: Path, stem: str) -> np.ndarray:
    """An array of bytes in IDX format."""
    matches = sorted(folder.glob(f"{stem}*ubyte*"))
    if not matches:
        raise SystemExit(f"no file {stem}-idx?-ubyte or .gz in {folder}")
    content = matches[0].read_bytes()
    if matches[0].suffix == ".gz":
        content = gzip.decompress(content)
    kind, dims = content[2], content[3]
    if content[:2] != b"\0\0" or kind != 8:
        raise SystemExit(f"{matches[0]} is no IDX file of bytes")
    shape = struct.unpack(f">{dims}I", content[4 : 4 + 4 * dims])
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dims).reshape(shape)


def corrupt(labels: np.ndarray, share: float, classes: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Replace a share of the labels by another class each; also tells which."""
    wrong = np.zeros(len(labels), dtype=bool)
    wrong[rng.permutation(len(labels))[: round(share * len(labels))]] = True
    shift = rng.integers(1, classes, len(labels))
    return np.where(wrong, (labels + shift) % classes, labels).astype(np.int32), wrong


def make_classifier(kind: str, features: int, classes: int) -> jt.Module:
    """A linear classifier, or a network with one hidden layer of 64 units."""
    if kind == "linear":
        return nn.Linear(features, classes)
    return nn.Sequential(nn.Linear(features, 64), nn.ReLU(), nn.Linear(64, classes))


def train_plainly(x: np.ndarray, y: np.ndarray, weights: np.ndarray, data: Data, args: argparse.Namespace) -> float:
    """Test accuracy of a fresh classifier trained with fixed sample weights."""
    jt.set_global_seed(args.seed, different_seed_for_mpi=False)
    model = make_classifier(args.model, x.shape[1], int(y.max()) + 1)
    weights = weights * (len(weights) / weights.sum())
    inputs, target, weight = jt.array(x), jt.array(y), jt.array(weights.astype(np.float32))
    optimizer = jt.optim.SGD(model.parameters(), lr=args.ll_lr, momentum=0.9)
    for _ in range(args.final_steps):
        losses = nn.cross_entropy_loss(model(inputs), target, reduction="none")
        optimizer.step((losses * weight).mean() + 1e-4 * sum((p * p).sum() for p in model.parameters()))
        jt.sync_all()
    predicted = model(jt.array(data.test_x)).numpy().argmax(1)
    return float((predicted == data.test_y).mean())


def detection(weights: np.ndarray, wrong: np.ndarray) -> dict[str, float]:
    """Precision, recall and F1 of calling a sample corrupted when its weight is below one half."""
    called = weights < 0.5
    hits = float((called & wrong).sum())
    precision = hits / max(1.0, float(called.sum()))
    recall = hits / max(1.0, float(wrong.sum()))
    f1 = 2 * precision * recall / max(1e-12, precision + recall)
    return {"precision": precision, "recall": recall, "f1": f1}


def draw(path: Path, trainer: BilevelTrainer, weights: np.ndarray, wrong: np.ndarray) -> None:
    """Both losses, and the weights of clean and corrupted samples."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    losses, histogram = figure.subplots(1, 2)
    steps = trainer.history["step"]
    losses.plot(steps, trainer.history["ul_loss"], label="upper: clean validation data")
    losses.plot(steps, trainer.history["ll_loss"], label="lower: weighted training data")
    losses.set(xlabel="outer step", ylabel="loss", title="Losses")
    losses.legend()
    bins = np.linspace(0, 1, 31)
    histogram.hist(weights[~wrong], bins, alpha=0.7, label="clean samples")
    histogram.hist(weights[wrong], bins, alpha=0.7, label="corrupted samples")
    histogram.set(xlabel="learned weight", ylabel="training samples", title="Learned weights")
    histogram.legend()
    figure.savefig(path, dpi=120)


def run(args: argparse.Namespace) -> dict[str, float]:
    """Train, print the table, and return its numbers."""
    rng = np.random.default_rng(args.seed)
    jt.set_global_seed(args.seed, different_seed_for_mpi=False)
    data = load_mnist(Path(args.data), rng) if args.data else load_digits(rng)
    classes = int(data.test_y.max()) + 1
    noisy, wrong = corrupt(data.train_y, args.corruption, classes, rng)

    ll_model = make_classifier(args.model, data.train_x.shape[1], classes)
    ul_model = SampleWeights(len(noisy))
    callbacks = [ProgressBar(), CSVLogger(times=False), TensorBoardLogger(histograms=25, lower_curves=50)]
    trainer = BilevelTrainer(
        ll_model,
        ul_model,
        weighted_loss,
        validation_loss,
        ll_optimizer=jt.optim.SGD(ll_model.parameters(), lr=args.ll_lr),
        ul_optimizer=jt.optim.Adam(ul_model.parameters(), lr=args.ul_lr),
        gm_op=args.gm_op,
        na_op=args.na_op,
        lower_iters=args.lower_iters,
        solver_config={"RGT": {"truncate_iter": args.lower_iters // 2}},
        metrics={"accuracy": accuracy},
        callbacks=callbacks,
        logger_dir=args.output,
        seed=args.seed,
        device=args.device,
    )
    begun = time.perf_counter()
    trainer.fit(
        {"data": data.train_x, "target": noisy, "index": np.arange(len(noisy), dtype=np.int32)},
        {"data": data.val_x, "target": data.val_y},
        max_steps=args.steps,
        val_loader={"data": data.val_x, "target": data.val_y},
        val_every=25,
    )
    seconds = time.perf_counter() - begun
    weights = ul_model().numpy()

    ones = np.ones(len(noisy))
    results = {
        "corrupted": train_plainly(data.train_x, noisy, ones, data, args),
        "learned": train_plainly(data.train_x, noisy, weights, data, args),
        "clean": train_plainly(data.train_x, data.train_y, (~wrong).astype(float), data, args),
        **detection(weights, wrong),
        "seconds": seconds,
    }
    if jt.rank > 0:  # of several processes the first one speaks
        return results
    print(
        f"\n{len(noisy)} training samples, {args.corruption:.0%} corrupted; {args.model} model; "
        f"{'+'.join(trainer.gm_op)} with {'+'.join(trainer.na_op)}"
    )
    print("(a) test accuracy, all corrupted data    {corrupted:7.2%}".format(**results))
    print("(b) test accuracy, learned weights       {learned:7.2%}".format(**results))
    print("(c) test accuracy, clean part alone      {clean:7.2%}".format(**results))
    print("corrupted samples found: precision {precision:.3f}, recall {recall:.3f}, F1 {f1:.3f}".format(**results))
    print(f"bilevel training took {seconds:.1f} s; logs are in {args.output}")
    try:
        draw(Path(args.output) / "hyper_cleaning.png", trainer, weights, wrong)
    except ImportError:
        print("no picture: matplotlib is not installed")
    return results


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", help="folder with MNIST's four IDX files; without it, scikit-learn's digits")
    p.add_argument("--model", choices=("linear", "mlp"), default="linear", help="classifier (default: %(default)s)")
    p.add_argument("--corruption", type=float, default=0.5, help="share of wrong labels (default: %(default)s)")
    p.add_argument("--gm-op", nargs="+", default=["NGD"], help="lower-level operators (default: NGD)")
    p.add_argument("--na-op", nargs="+", default=["RAD"], help="hypergradient operators (default: RAD)")
    p.add_argument("--lower-iters", type=int, default=20, help="lower steps K (default: %(default)s)")
    p.add_argument("--steps", type=int, default=150, help="outer steps (default: %(default)s)")
    p.add_argument("--ll-lr", type=float, default=0.5, help="lower learning rate (default: %(default)s)")
    p.add_argument("--ul-lr", type=float, default=0.1, help="upper learning rate (default: %(default)s)")
    p.add_argument(
        "--final-steps", type=int, default=500, help="steps of the three final trainings (default: %(default)s)"
    )
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: CUDA where there is one")
    p.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    p.add_argument("--output", default="runs/data_hyper_cleaning", help="folder for logs (default: %(default)s)")
    return p


if __name__ == "__main__":
    run(parser().parse_args())
