"""One regularisation weight per feature, learned, beside the best single weight found by a grid search.

Multiclass logistic regression on features of which many are useless. The lower level trains the classifier with one L2
weight per feature, the upper level moves the logarithms of those weights to minimise the loss on a validation set.
(Pedregosa, "Hyperparameter optimization with approximate gradient", ICML 2016.)

The data are 20newsgroups as TF-IDF features where scikit-learn's fetcher has them on disk or can download them;
otherwise scikit-learn's handwritten digits with as many noise features as ``--noise`` says. The program prints the test
loss and accuracy of both ways and what each cost in lower-level gradient steps and seconds. It writes metrics.csv,
TensorBoard events and, where matplotlib is installed, a picture to the folder ``--output``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
import time
from typing import NamedTuple

from jboat import BilevelTrainer
from jboat.callbacks import CSVLogger, ProgressBar, TensorBoardLogger
import jittor as jt
from jittor import nn
import numpy as np

GRID = tuple(10.0**e for e in np.arange(-5.0, 1.01, 0.5))
Split = dict[str, np.ndarray]


class Data(NamedTuple):
    """Training, validation and test split, and how many features carry a signal (None if nobody knows)."""

    train: Split
    val: Split
    test: Split
    informative: int | None


class Penalties(jt.Module):
    """The logarithm of one L2 weight per feature."""

    def __init__(self, features: int, start: float) -> None:
        self.log = jt.array(np.full((1, features), np.log(start), dtype=np.float32))


def penalised_loss(batch: dict, ul_model: jt.Module, ll_model: jt.Module) -> jt.Var:
    """The lower objective: cross entropy and the penalties."""
    loss = nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"])
    return loss + 0.5 * (ul_model.log.exp() * ll_model.weight * ll_model.weight).sum()


def validation_loss(batch: dict, ul_model: jt.Module, ll_model: jt.Module) -> jt.Var:
    """The upper objective: cross entropy on the validation data."""
    return nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"])


def load_digits(noise: int, seed: int) -> Data:
    """300 training and 300 validation digits of 64 pixels, all features scaled to one, and ``noise`` useless ones."""
    from sklearn.datasets import load_digits as bundled

    rng = np.random.default_rng(seed)
    x, y = bundled(return_X_y=True)
    order = rng.permutation(len(x))
    x, y = x[order], y[order].astype(np.int32)
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-3)
    x = np.concatenate([x, rng.normal(size=(len(x), noise))], axis=1) / np.sqrt(64.0)
    x = x.astype(np.float32)
    parts = (slice(300), slice(300, 600), slice(600, None))
    return Data(*({"data": x[s], "target": y[s]} for s in parts), informative=64)


def load(args: argparse.Namespace) -> tuple[str, Data]:
    """What ``--data`` asks for, or the digits where it cannot be had; and its name."""
    if args.data != "digits":
        try:
            return "newsgroups", load_newsgroups(args.seed)
        except OSError as error:  # not on disk, and no network
            print(f"20newsgroups cannot be had ({error}); the digits instead")
    return "digits", load_digits(args.noise, args.seed)


def load_newsgroups(seed: int) -> Data:
    """2000 training and 2000 validation posts with their 1000 most frequent words, and the fetcher's test split."""
    from sklearn.datasets import fetch_20newsgroups
    from sklearn.feature_extraction.text import TfidfVectorizer

    posts = {part: fetch_20newsgroups(subset=part, remove=("headers", "footers")) for part in ("train", "test")}
    words = TfidfVectorizer(max_features=1000, sublinear_tf=True, stop_words="english")
    x = words.fit_transform(posts["train"].data).toarray().astype(np.float32)
    test = words.transform(posts["test"].data).toarray().astype(np.float32)
    y = posts["train"].target.astype(np.int32)
    order = np.random.default_rng(seed).permutation(len(y))
    halves = (order[:2000], order[2000:4000])
    train, val = ({"data": x[s], "target": y[s]} for s in halves)
    return Data(train, val, {"data": test, "target": posts["test"].target.astype(np.int32)}, informative=None)


def fitted(data: Data, penalties: np.ndarray, args: argparse.Namespace) -> jt.Module:
    """A fresh classifier trained on the training data with fixed penalties."""
    model = new_classifier(data)
    optimizer = jt.optim.SGD(model.parameters(), lr=args.ll_lr, momentum=0.9)
    batch = {name: jt.array(value) for name, value in data.train.items()}
    held = Penalties(len(penalties), 1.0)
    held.log.assign(jt.array(np.log(penalties).astype(np.float32).reshape(1, -1)))
    for _ in range(args.final_steps):
        optimizer.step(penalised_loss(batch, held, model))
        jt.sync_all()
    return model


def new_classifier(data: Data) -> jt.Module:
    """A linear classifier that starts at zero."""
    classes = int(data.train["target"].max()) + 1
    model = nn.Linear(data.train["data"].shape[1], classes, bias=False)
    model.weight.assign(jt.zeros(model.weight.shape))
    return model


def scores(model: jt.Module, split: Split) -> tuple[float, float]:
    """Loss and accuracy."""
    with jt.no_grad():
        logits = model(jt.array(split["data"]))
        loss = float(nn.cross_entropy_loss(logits, jt.array(split["target"])).item())
    return loss, float((logits.numpy().argmax(1) == split["target"]).mean())


def draw(path: Path, trainer: BilevelTrainer, learned: np.ndarray, single: float, informative: int | None) -> None:
    """The upper loss, and the learned weights beside the best single one."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    losses, weights = figure.subplots(1, 2)
    losses.plot(trainer.history["step"], trainer.history["ul_loss"])
    losses.set(xlabel="outer step", ylabel="validation loss", title="Upper loss")
    groups = {"all features": slice(None)}
    if informative is not None:
        groups = {"pixels": slice(informative), "noise features": slice(informative, None)}
    bins = np.linspace(np.log10(learned).min(), np.log10(learned).max(), 31)
    for name, part in groups.items():
        weights.hist(np.log10(learned[part]), bins, alpha=0.7, label=name)
    weights.axvline(np.log10(single), linestyle="--", color="gray", label="best single weight")
    weights.set(xlabel="log10 of the learned L2 weight", ylabel="features", title="Learned weights")
    weights.legend(loc="upper center")
    figure.savefig(path, dpi=120)


def run(args: argparse.Namespace) -> dict[str, float]:
    """Do both, print the table, and return its numbers."""
    jt.set_global_seed(args.seed)
    name, data = load(args)
    features = data.train["data"].shape[1]

    begun = time.perf_counter()
    grid = {value: scores(fitted(data, np.full(features, value), args), data.val)[0] for value in GRID}
    single = min(grid, key=grid.__getitem__)
    grid_seconds = time.perf_counter() - begun
    single_loss, single_accuracy = scores(fitted(data, np.full(features, single), args), data.test)

    model, penalties = new_classifier(data), Penalties(features, single)
    trainer = BilevelTrainer(
        model,
        penalties,
        penalised_loss,
        validation_loss,
        ll_optimizer=jt.optim.SGD(model.parameters(), lr=args.ll_lr),
        ul_optimizer=jt.optim.Adam(penalties.parameters(), lr=args.ul_lr),
        na_op=args.na_op,
        lower_iters=args.lower_iters,
        callbacks=[ProgressBar(), CSVLogger(times=False), TensorBoardLogger(histograms=20)],
        logger_dir=args.output,
        seed=args.seed,
    )
    begun = time.perf_counter()
    trainer.fit(data.train, data.val, max_steps=args.steps)
    seconds = time.perf_counter() - begun
    learned = np.exp(penalties.log.numpy().ravel())
    loss, accuracy = scores(fitted(data, learned, args), data.test)

    print(f"\n{name}: {len(data.train['target'])} training samples, {features} features")
    print(f"{'':<28}{'test loss':>10}{'accuracy':>10}{'lower steps':>13}{'seconds':>9}")
    grid_steps = len(GRID) * args.final_steps
    print(
        f"{f'best single weight {single:.1e}':<28}{single_loss:>10.4f}{single_accuracy:>10.2%}{grid_steps:>13}"
        f"{grid_seconds:>9.1f}"
    )
    steps = args.steps * args.lower_iters
    print(f"{'one weight per feature':<28}{loss:>10.4f}{accuracy:>10.2%}{steps:>13}{seconds:>9.1f}")
    print(f"the learned weights lower the test loss by {1 - loss / single_loss:.1%}; logs are in {args.output}")
    try:
        draw(Path(args.output) / "l2_regularization.png", trainer, learned, single, data.informative)
    except ImportError:
        print("no picture: matplotlib is not installed")
    results = {"single_loss": single_loss, "single_accuracy": single_accuracy, "loss": loss, "accuracy": accuracy}
    if data.informative is not None:
        ratio = np.median(learned[data.informative :]) / np.median(learned[: data.informative])
        results["noise_to_signal"] = float(ratio)
    return results


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument(
        "--data",
        choices=("auto", "digits"),
        default="auto",
        help="auto: 20newsgroups from disk or the network, else digits (default: %(default)s)",
    )
    p.add_argument("--noise", type=int, default=200, help="noise features beside the pixels (default: %(default)s)")
    p.add_argument("--na-op", nargs="+", default=["CG"], help="hypergradient operators (default: CG)")
    p.add_argument("--lower-iters", type=int, default=20, help="lower steps K (default: %(default)s)")
    p.add_argument("--steps", type=int, default=100, help="outer steps (default: %(default)s)")
    p.add_argument("--ll-lr", type=float, default=0.5, help="lower learning rate (default: %(default)s)")
    p.add_argument("--ul-lr", type=float, default=0.1, help="upper learning rate (default: %(default)s)")
    p.add_argument(
        "--final-steps", type=int, default=200, help="steps of every training with fixed weights (default: %(default)s)"
    )
    p.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    p.add_argument("--output", default="runs/l2_regularization", help="folder for logs (default: %(default)s)")
    return p


if __name__ == "__main__":
    run(parser().parse_args())
