"""Differentiable architecture search on a small cell (DARTS), with two hypergradients.

The cell has three nodes and three edges. On every edge, candidate operations are mixed by a softmax of architecture
parameters, the upper level, which minimise the loss on one half of the training images; the lower level trains the
weights of all candidates on the other half. The search is done with FD after a single lower step, which is DARTS (Liu
et al., "DARTS: differentiable architecture search", ICLR 2019), and with RAD through several lower steps. On every edge
the strongest operation is kept, and the architecture is trained anew.

The program prints the chosen operations and their test accuracy, beside random architectures of the same cell, edges
and channels, trained in the same way. The data are scikit-learn's handwritten digits. It writes metrics.csv and
TensorBoard events of both searches and, where matplotlib is installed, a picture to the folder ``--output``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
import time

from jboat import BilevelTrainer
from jboat import nn as jboat_nn
from jboat.callbacks import CSVLogger, ProgressBar, TensorBoardLogger
import jittor as jt
from jittor import nn
import numpy as np

OPERATIONS = ("skip", "average 3x3", "maximum 3x3", "convolution 1x1", "convolution 3x3")
EDGES = ((0, 1), (0, 2), (1, 2))
SEARCHES = {"FD (DARTS)": (["FD"], 1), "RAD": (["RAD"], 2)}
Split = dict[str, np.ndarray]


def operation(name: str, channels: int) -> Callable[[jt.Var], jt.Var]:
    """A candidate, from [n, channels, h, w] to the same shape; all but ``skip`` normalised, so that none is loud."""
    if name == "skip":
        return nn.Identity()
    size = int(name[-1])
    layers = {
        "average 3x3": lambda: nn.Pool(3, 1, 1, op="mean"),
        "maximum 3x3": lambda: jboat_nn.MaxPool2d(3, 1, 1),  # Jittor's own cannot be differentiated twice
    }
    convolution = lambda: nn.Sequential(nn.Tanh(), nn.Conv(channels, channels, size, padding=size // 2))  # noqa: E731
    return nn.Sequential(layers.get(name, convolution)(), nn.GroupNorm(1, channels, affine=False))


class Architecture(jt.Module):
    """The architecture parameters: one row for every edge, one column for every candidate."""

    def __init__(self) -> None:
        self.strength = jt.zeros((len(EDGES), len(OPERATIONS)))

    def execute(self) -> jt.Var:
        """The shares of the candidates, each row adding up to one."""
        return nn.softmax(self.strength, dim=1)


class Network(jt.Module):
    """A convolution, the cell, and a linear layer on the mean over the pixels.

    Args:
        choice: for every edge, the candidates it holds.
        channels: channels of every node.
    """

    def __init__(self, choice: Sequence[Sequence[str]], channels: int) -> None:
        self.stem = nn.Conv(1, channels, 3, stride=2, padding=1)
        self.edges = nn.ModuleList([nn.ModuleList([operation(o, channels) for o in names]) for names in choice])
        self.head = nn.Linear(2 * channels, 10)

    def execute(self, x: jt.Var, shares: jt.Var | None = None) -> jt.Var:
        """Logits, shape [n, 10]; ``shares`` weights the candidates, which are added up without it."""
        nodes: list[jt.Var] = [jt.tanh(self.stem(x))]
        for node in (1, 2):
            arriving = []
            for number, (source, target) in enumerate(EDGES):
                if target == node:
                    outs = [o(nodes[source]) for o in self.edges[number]]
                    weights = [1.0] * len(outs) if shares is None else [shares[number, i] for i in range(len(outs))]
                    arriving.append(sum(w * out for w, out in zip(weights, outs, strict=True)))
            nodes.append(sum(arriving))
        return self.head(jt.concat(nodes[1:], dim=1).mean(dims=(2, 3)))


def training_loss(batch: dict, ul_model: jt.Module, ll_model: jt.Module) -> jt.Var:
    """Both objectives: cross entropy of the mixed network, on one half of the images or the other."""
    return nn.cross_entropy_loss(ll_model(batch["data"], ul_model()), batch["target"])


def load(seed: int) -> tuple[Split, Split, Split]:
    """200 images to train the weights, 200 for the architecture, and 1397 to test."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(x))
    x, y = (x[order].reshape(-1, 1, 8, 8) / 16.0).astype(np.float32), y[order].astype(np.int32)
    weights, architecture, test = (
        {"data": x[part], "target": y[part]} for part in (slice(200), slice(200, 400), slice(400, None))
    )
    return weights, architecture, test


def searched(name: str, halves: tuple[Split, Split], args: argparse.Namespace) -> tuple[np.ndarray, BilevelTrainer]:
    """The shares of the candidates that one search ends with."""
    na_op, lower_iters = SEARCHES[name]
    jt.set_global_seed(args.seed)
    network, architecture = Network([OPERATIONS] * len(EDGES), args.channels), Architecture()
    trainer = BilevelTrainer(
        network,
        architecture,
        training_loss,
        training_loss,
        ll_optimizer=jt.optim.SGD(network.parameters(), lr=args.ll_lr, momentum=0.9),
        ll_optimizer_state="carry",
        ul_optimizer=jt.optim.Adam(architecture.parameters(), lr=args.ul_lr),
        na_op=na_op,
        lower_iters=lower_iters,
        callbacks=[ProgressBar(), CSVLogger(times=False), TensorBoardLogger()],
        logger_dir=Path(args.output) / na_op[0],
        seed=args.seed,
    )
    trainer.fit(*halves, max_steps=args.steps)
    return architecture().numpy(), trainer


def retrained(choice: Sequence[str], halves: tuple[Split, Split], test: Split, args: argparse.Namespace) -> float:
    """Test accuracy of an architecture trained anew on all training images; the mean of two starts."""
    data, target = (jt.array(np.concatenate([half[key] for half in halves])) for key in ("data", "target"))
    scores = []
    for start in range(2):
        jt.set_global_seed(args.seed + 1 + start)
        network = Network([[name] for name in choice], args.channels)
        optimizer = jt.optim.Adam(network.parameters(), lr=0.01)
        for _ in range(args.final_steps):
            optimizer.step(nn.cross_entropy_loss(network(data), target))
            jt.sync_all()
        predicted = network(jt.array(test["data"])).numpy().argmax(1)
        scores.append((predicted == test["target"]).mean())
    return float(np.mean(scores))


def draw(path: Path, shares: dict[str, np.ndarray], found: dict[str, float], random: list[float]) -> None:
    """The shares of the candidates on every edge, and the accuracies."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    *maps, accuracies = figure.subplots(1, len(shares) + 1)
    for axes, (name, values) in zip(maps, shares.items(), strict=True):
        axes.imshow(values, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
        axes.set_xticks(range(len(OPERATIONS)), OPERATIONS, rotation=35, ha="right")
        axes.set_yticks(range(len(EDGES)), [f"node {a} to {b}" for a, b in EDGES])
        axes.set_title(f"Shares found by {name}")
        for (row, column), share in np.ndenumerate(values):
            axes.text(column, row, f"{share:.2f}", ha="center", va="center", color="white" if share > 0.5 else "black")
    accuracies.scatter(random, np.zeros(len(random)), label="random architectures", color="gray")
    for (name, accuracy), marker in zip(found.items(), "o^", strict=False):
        accuracies.scatter([accuracy], [0.0], s=90, marker=marker, label=f"found by {name}")
    accuracies.set(xlabel="test accuracy", yticks=[], ylim=(-1, 2), title="Trained anew")
    accuracies.legend(loc="upper left")
    figure.savefig(path, dpi=120)


def run(args: argparse.Namespace) -> dict[str, float]:
    """Search, train anew, print the table, and return its numbers."""
    weights, architecture, test = load(args.seed)
    halves = weights, architecture
    shares, found, lines = {}, {}, []
    for name in args.searches:
        begun = time.perf_counter()
        shares[name], _ = searched(name, halves, args)
        seconds = time.perf_counter() - begun
        choice = [OPERATIONS[i] for i in shares[name].argmax(1)]
        found[name] = retrained(choice, halves, test, args)
        lines.append(f"{name:<20}{found[name]:>9.2%}{seconds:>10.1f}  {', '.join(choice)}")
    rng = np.random.default_rng(args.seed)
    everything = [np.array(OPERATIONS)[list(c)] for c in np.ndindex(*(len(OPERATIONS),) * len(EDGES))]
    picked = [everything[i] for i in rng.permutation(len(everything))[: args.random]]
    random = [retrained([str(o) for o in choice], halves, test, args) for choice in picked]
    print(f"\n{'search':<20}{'accuracy':>9}{'seconds':>10}  operations on the edges {EDGES}")
    print("\n".join(lines))
    print(f"{'random, mean':<20}{np.mean(random):>9.2%}{'':>10}  {len(random)} architectures")
    print(f"{'random, best':<20}{np.max(random):>9.2%}{'':>10}  {', '.join(picked[int(np.argmax(random))])}")
    print(f"logs are in {args.output}")
    try:
        draw(Path(args.output) / "architecture_search.png", shares, found, random)
    except ImportError:
        print("no picture: matplotlib is not installed")
    return {**found, "random_mean": float(np.mean(random)), "random_best": float(np.max(random))}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--searches", nargs="+", default=list(SEARCHES), choices=list(SEARCHES), help="default: both")
    p.add_argument("--steps", type=int, default=150, help="outer steps of every search (default: %(default)s)")
    p.add_argument("--random", type=int, default=8, help="random architectures (default: %(default)s)")
    p.add_argument("--channels", type=int, default=8, help="channels of every node (default: %(default)s)")
    p.add_argument("--ll-lr", type=float, default=0.03, help="lower learning rate (default: %(default)s)")
    p.add_argument("--ul-lr", type=float, default=0.02, help="upper learning rate, Adam's (default: %(default)s)")
    p.add_argument("--final-steps", type=int, default=150, help="steps of training anew (default: %(default)s)")
    p.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    p.add_argument("--output", default="runs/architecture_search", help="folder for logs (default: %(default)s)")
    return p


if __name__ == "__main__":
    run(parser().parse_args())
