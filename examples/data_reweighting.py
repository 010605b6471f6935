"""Learn a function that weights training samples, on a long-tailed data set.

The ten classes of scikit-learn's handwritten digits have from ``--most`` down to ``--most / --imbalance`` training
samples. The upper level holds a small weighting network and minimises the loss on a small balanced set; the lower level
trains the classifier on the weighted training loss, one step at a time. The network sees a sample's loss alone
(Meta-Weight-Net: Shu et al., "Learning an explicit mapping for sample weighting", NeurIPS 2019), or also how frequent
its class is (Shu et al., "CMW-Net: learning a class-aware sample weighting mapping", TPAMI 2023).

The program prints the balanced test accuracy (the mean over classes) of both beside that of unweighted training on the
same samples, without and with the balanced set, and how the learned weights differ between frequent and rare classes.
It writes metrics.csv and TensorBoard events of both and, where matplotlib is installed, a picture to the folder
``--output``.
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

CLASSES = 10
Split = dict[str, np.ndarray]


class Data(NamedTuple):
    """Long-tailed training samples, a small balanced set, test samples, and the training samples of each class."""

    train: Split
    balanced: Split
    test: Split
    counts: np.ndarray


class WeightNet(jt.Module):
    """A sample's loss and its class's frequency in, its weight out: one hidden layer, the same for all samples.

    Args:
        counts: training samples of each class; None to look at the loss alone.
        hidden: units of the hidden layer.
    """

    def __init__(self, counts: np.ndarray | None, hidden: int = 32) -> None:
        frequencies = np.zeros(CLASSES) if counts is None else np.log(counts / counts.max())
        self.frequencies = jt.array(frequencies.astype(np.float32)).stop_grad()
        self.hidden = nn.Linear(2, hidden)
        self.out = nn.Linear(hidden, 1)

    def execute(self, losses: jt.Var, target: jt.Var) -> jt.Var:
        """Weights in (0, 2), shape [n], for losses and labels of shape [n]."""
        seen = jt.stack([losses, self.frequencies[target]], dim=1)
        return 2.0 * self.out(jt.tanh(self.hidden(seen))).sigmoid().reshape(-1)


def weighted_loss(batch: dict, ul_model: jt.Module, ll_model: jt.Module) -> jt.Var:
    """The lower objective: cross entropy, each sample by its weight, which is a number, not a function of the model."""
    losses = nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"], reduction="none")
    return (losses * ul_model(losses.detach(), batch["target"])).mean()


def balanced_loss(batch: dict, ul_model: jt.Module, ll_model: jt.Module) -> jt.Var:
    """The upper objective: cross entropy on the balanced set."""
    return nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"])


def load(most: int, imbalance: float, clean: int, seed: int) -> Data:
    """Class c has ``most / imbalance^(c / 9)`` training samples; ``clean`` samples of each are the balanced set."""
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(seed)
    x, y = load_digits(return_X_y=True)
    x, y = (x / 16.0).astype(np.float32), y.astype(np.int32)
    rank = rng.permutation(CLASSES)
    counts = np.array([round(most / imbalance ** (rank[c] / (CLASSES - 1))) for c in range(CLASSES)])
    parts: tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]] = ([], [], [])
    for c in range(CLASSES):
        order = rng.permutation(np.flatnonzero(y == c))
        ends = (clean, clean + counts[c])
        for part, chosen in zip(parts, np.split(order, ends), strict=True):
            part.append(chosen)
    balanced, train, test = ({"data": x[i], "target": y[i]} for i in map(np.concatenate, parts))
    return Data(train, balanced, test, counts)


def classifier() -> jt.Module:
    """A linear classifier, which cannot fit every training sample and has to choose."""
    return nn.Linear(64, CLASSES)


def recalls(model: jt.Module, split: Split) -> np.ndarray:
    """The share of each class's samples that is classified right."""
    right = model(jt.array(split["data"])).numpy().argmax(1) == split["target"]
    return np.array([right[split["target"] == c].mean() for c in range(CLASSES)])


def balanced_accuracy(batch: dict, ul_model: jt.Module, ll_model: jt.Module) -> float:
    """The metric that ``evaluate`` computes: the mean of the recalls."""
    return float(recalls(ll_model, {name: value.numpy() for name, value in batch.items()}).mean())


def train_plainly(split: Split, args: argparse.Namespace) -> jt.Module:
    """As many steps of the same optimizer without weights."""
    jt.set_global_seed(args.seed)
    model = classifier()
    optimizer = jt.optim.SGD(model.parameters(), lr=args.ll_lr, momentum=0.9)
    data, target = jt.array(split["data"]), jt.array(split["target"])
    for _ in range(args.steps):
        optimizer.step(nn.cross_entropy_loss(model(data), target))
        jt.sync_all()
    return model


def train_weighted(name: str, data: Data, args: argparse.Namespace) -> tuple[jt.Module, WeightNet]:
    """The classifier and the weighting network, trained together."""
    jt.set_global_seed(args.seed)
    model, net = classifier(), WeightNet(data.counts if name == "loss and frequency" else None)
    variables = [p for p in net.parameters() if p is not net.frequencies]
    trainer = BilevelTrainer(
        model,
        net,
        weighted_loss,
        balanced_loss,
        ll_optimizer=jt.optim.SGD(model.parameters(), lr=args.ll_lr, momentum=0.9),
        ul_optimizer=jt.optim.Adam(variables, lr=args.ul_lr),
        ul_var=variables,
        ll_optimizer_state="carry",
        na_op=args.na_op,
        lower_iters=1,
        metrics={"balanced_accuracy": balanced_accuracy},
        callbacks=[ProgressBar(), CSVLogger(times=False), TensorBoardLogger(histograms=50)],
        logger_dir=Path(args.output) / name.replace(" ", "_"),
        seed=args.seed,
    )
    # the weights are numbers by design, so that a second derivative through them is not wanted
    limits = {"max_steps": args.steps, "val_every": 50, "check_second_order": False}
    trainer.fit(data.train, data.balanced, val_loader=data.balanced, **limits)
    return model, net


def draw(path: Path, net: WeightNet, scores: dict[str, np.ndarray], data: Data) -> None:
    """The learned function for a frequent and a rare class, and the recall of every class."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 3.8), layout="constrained")
    function, classes = figure.subplots(1, 2)
    grid = np.linspace(0.0, 5.0, 100).astype(np.float32)
    order = np.argsort(-data.counts)
    for rank in (0, CLASSES // 2, CLASSES - 1):
        digit = int(order[rank])
        target = jt.array(np.full(len(grid), digit, np.int32))
        function.plot(grid, net(jt.array(grid), target).numpy(), label=f"digit {digit}, {data.counts[digit]} samples")
    function.set(xlabel="loss of a training sample", ylabel="weight", title="The learned weight")
    function.legend()
    width = 0.8 / len(scores)
    for i, (name, values) in enumerate(scores.items()):
        classes.bar(np.arange(CLASSES) + (i - (len(scores) - 1) / 2) * width, values[order], width=width, label=name)
    classes.set_xticks(range(CLASSES), [f"{c}\n{data.counts[c]}" for c in order])
    classes.set(xlabel="digit, and its training samples", ylabel="test recall", ylim=(0, 1), title="Recall of classes")
    classes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=len(scores))
    figure.savefig(path, dpi=120)


def run(args: argparse.Namespace) -> dict[str, float]:
    """Train, print the table, and return its numbers."""
    data = load(args.most, args.imbalance, args.clean, args.seed)
    both = {name: np.concatenate([data.train[name], data.balanced[name]]) for name in data.train}
    scores = {
        "unweighted": recalls(train_plainly(data.train, args), data.test),
        "unweighted, with balanced set": recalls(train_plainly(both, args), data.test),
    }
    begun = time.perf_counter()
    for name in ("loss", "loss and frequency"):
        model, net = train_weighted(name, data, args)
        scores[f"weights by {name}"] = recalls(model, data.test)
    seconds = time.perf_counter() - begun
    target = jt.array(data.train["target"])
    losses = nn.cross_entropy_loss(model(jt.array(data.train["data"])), target, reduction="none")
    weights = net(losses, target).numpy()
    rare = np.isin(data.train["target"], np.argsort(data.counts)[:3])
    ratio = float(weights[rare].mean() / weights[~rare].mean())
    print(
        f"\n{len(weights)} training samples, {data.counts.max()} to {data.counts.min()} a class; {args.clean} balanced"
    )
    print(f"{'training':<34}{'balanced test accuracy':>24}{'three rarest classes':>22}")
    for name, values in scores.items():
        few = values[np.argsort(data.counts)[:3]].mean()
        print(f"{name:<34}{values.mean():>24.2%}{few:>22.2%}")
    print(f"with frequencies, a sample of the three rarest classes weighs {ratio:.1f} times one of the others")
    print(f"bilevel training took {seconds:.1f} s; logs are in {args.output}")
    try:
        shown = {name: scores[name] for name in ("unweighted", "weights by loss", "weights by loss and frequency")}
        draw(Path(args.output) / "data_reweighting.png", net, shown, data)
    except ImportError:
        print("no picture: matplotlib is not installed")
    return {"rare_to_frequent": ratio, **{name: float(values.mean()) for name, values in scores.items()}}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--most", type=int, default=100, help="samples of the most frequent class (default: %(default)s)")
    p.add_argument("--imbalance", type=float, default=50.0, help="of the most to the least (default: %(default)s)")
    p.add_argument("--clean", type=int, default=5, help="balanced samples a class (default: %(default)s)")
    p.add_argument("--na-op", nargs="+", default=["RAD"], help="hypergradient operators (default: RAD)")
    p.add_argument("--steps", type=int, default=300, help="outer steps (default: %(default)s)")
    p.add_argument("--ll-lr", type=float, default=0.1, help="lower learning rate (default: %(default)s)")
    p.add_argument("--ul-lr", type=float, default=0.05, help="upper learning rate, Adam's (default: %(default)s)")
    p.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    p.add_argument("--output", default="runs/data_reweighting", help="folder for logs (default: %(default)s)")
    return p


if __name__ == "__main__":
    run(parser().parse_args())
