"""Few-shot classification: learn where to start, or what to look at, so that a few images teach a new class.

A task holds N classes with K images each, the support set, and other images of the same classes, the query set.
Four ways are compared on tasks of classes that meta-training never saw, against training from scratch:

* MAML (IAD): the upper level learns the initialisation; exact gradient through the K lower steps. (Finn et al. 2017.)
* FOMAML (FOA+IAD): the same without second derivatives. (Nichol et al. 2018.)
* iMAML (IAD+CG): the lower level is pulled towards the initialisation, and CG solves for the gradient.
  (Rajeswaran et al. 2019.)
* GAFFO: a first-order method with a single loop. It learns the features, the upper level, below one linear head for all
  training classes, the lower level; in a task, a new head is trained on these features. (Yao et al. 2024.)

By default the classes are scikit-learn's handwritten digits in several rotations, with the digits 4, 5, 7 and 9 held
out. ``--data`` reads a folder in which every folder that holds images is a class, as those of Omniglot and miniImageNet
do; a quarter of the classes is held out. The program prints the accuracy over ``--test-tasks`` tasks with the 95%
interval of the mean, and writes metrics.csv and TensorBoard events of every method and, where matplotlib is installed,
a picture to the folder ``--output``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
import time
from typing import Any, NamedTuple

from jboat import BilevelTrainer
from jboat.callbacks import CSVLogger, ProgressBar, TensorBoardLogger
import jittor as jt
from jittor import nn
import numpy as np

CHAINS = {"MAML": ["IAD"], "FOMAML": ["FOA", "IAD"], "iMAML": ["IAD", "CG"]}
METHODS = (*CHAINS, "GAFFO")
HELD_OUT = (4, 5, 7, 9)
LIKE_THEMSELVES = (0, 1, 2, 5, 8)  # upside down they look the same
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
Classes = list[np.ndarray]
Batch = dict[str, np.ndarray]


class Task(NamedTuple):
    """Images of shape [n, channels, size, size] with labels from 0 to N - 1."""

    support: Batch
    query: Batch


class Network(jt.Module):
    """Convolutions of stride 2 down to a few pixels, each normalised, and a linear head."""

    def __init__(self, channels: int, size: int, ways: int) -> None:
        self.features = nn.Sequential()
        inputs = channels
        while size > 2:
            self.features.append(nn.Conv(inputs, 32, 3, stride=2, padding=1))
            self.features.append(nn.GroupNorm(1, 32, affine=False))
            self.features.append(nn.ReLU())
            inputs, size = 32, (size + 1) // 2
        self.head = nn.Linear(32 * size * size, ways)

    def execute(self, x: jt.Var) -> jt.Var:
        """Logits, shape [n, ways]."""
        features = self.features(x)
        return self.head(features.reshape(features.shape[0], -1))


def loss(batch: dict, ul_model: jt.Module, ll_model: jt.Module) -> jt.Var:
    """Both objectives of MAML: cross entropy on the support set below, on the query set above."""
    return nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"])


def head_loss(batch: dict, ul_model: jt.Module, ll_model: jt.Module) -> jt.Var:
    """Both objectives of GAFFO: cross entropy of a head on learned features."""
    features = ul_model.features(batch["data"])
    logits = ll_model(features.reshape(features.shape[0], -1))
    decay = sum((p * p).sum() for p in ll_model.parameters())
    return nn.cross_entropy_loss(logits, batch["target"]) + 1e-3 * decay


def load_digits() -> tuple[Classes, Classes]:
    """Digits as classes of their own in every rotation, 8x8 pixels; training classes and held-out classes."""
    from sklearn.datasets import load_digits as bundled

    x, y = bundled(return_X_y=True)
    x = (x.reshape(-1, 1, 8, 8) / 16.0).astype(np.float32)
    parts: tuple[Classes, Classes] = ([], [])
    for digit in range(10):
        for turns in range(2 if digit in LIKE_THEMSELVES else 4):
            parts[digit in HELD_OUT].append(np.rot90(x[y == digit], turns, axes=(2, 3)).copy())
    return parts


def load_folder(folder: Path, size: int, colour: bool, rng: np.random.Generator) -> tuple[Classes, Classes]:
    """Every folder with images is a class; a quarter of the classes is held out."""
    from PIL import Image

    files: dict[Path, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES:
            files.setdefault(path.parent, []).append(path)
    classes = []
    for paths in files.values():
        images = [Image.open(p).convert("RGB" if colour else "L").resize((size, size)) for p in paths]
        arrays = np.stack([np.asarray(image, np.float32) / 255.0 for image in images])
        classes.append(arrays.transpose(0, 3, 1, 2) if colour else arrays[:, None])
    if len(classes) < 8:
        raise SystemExit(f"{folder} has {len(classes)} folders with images; at least 8 classes are needed")
    order = rng.permutation(len(classes))
    held_out = len(classes) // 4
    return [classes[i] for i in order[held_out:]], [classes[i] for i in order[:held_out]]


def draw_task(classes: Classes, args: argparse.Namespace, rng: np.random.Generator) -> Task:
    """N classes, and of each ``shots`` images to learn from and ``queries`` others."""
    chosen = rng.permutation(len(classes))[: args.ways]
    halves: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for number in chosen:
        images = classes[number][rng.permutation(len(classes[number]))[: args.shots + args.queries]]
        halves[0].append(images[: args.shots])
        halves[1].append(images[args.shots :])
    batches = []
    for half in halves:
        target = np.repeat(np.arange(args.ways), [len(images) for images in half]).astype(np.int32)
        batches.append({"data": np.concatenate(half), "target": target})
    return Task(*batches)


def meta_trained(method: str, classes: Classes, network: Network, args: argparse.Namespace) -> BilevelTrainer:
    """Learn the network's weights, or its features, by one method."""
    rng = np.random.default_rng(args.seed + 1)
    callbacks = [ProgressBar(), CSVLogger(times=False), TensorBoardLogger()]
    common: dict[str, Any] = {
        "metrics": {"accuracy": accuracy},
        "callbacks": callbacks,
        "logger_dir": Path(args.output) / method,
        "seed": args.seed,
    }
    adam = jt.optim.Adam(network.parameters(), lr=args.ul_lr)
    if method == "GAFFO":
        head = nn.Linear(network.head.weight.shape[1], len(classes))
        features = list(network.features.parameters())
        trainer = BilevelTrainer(
            head,
            network,
            head_loss,
            head_loss,
            ll_optimizer=jt.optim.SGD(head.parameters(), lr=0.5),
            ul_optimizer=jt.optim.Adam(features, lr=args.ul_lr),
            ul_var=features,
            fo_op="GAFFO",
            solver_config={"GAFFO": {"eta": 0.5, "gamma": 10.0, "c0": 1.0}},
            **common,
        )
        halves: tuple[list[Batch], list[Batch]] = ([], [])
        for _ in range(args.steps):
            for half in halves:
                picked = [c[rng.permutation(len(c))[:8]] for c in classes]
                target = np.repeat(np.arange(len(classes)), [len(images) for images in picked]).astype(np.int32)
                half.append({"data": np.concatenate(picked), "target": target})
        trainer.fit(*halves, max_steps=args.steps)
        return trainer
    learner = Network(*args.shape, args.ways)
    trainer = BilevelTrainer(
        learner,
        network,
        loss,
        loss,
        ll_optimizer=jt.optim.SGD(learner.parameters(), lr=args.ll_lr),
        ul_optimizer=adam,
        na_op=CHAINS[method],
        lower_iters=task_steps(method, args),
        solver_config={"IAD": {"proximal": args.proximal}, "CG": {"k": 5}} if method == "iMAML" else {},
        **common,
    )
    steps = [[draw_task(classes, args, rng) for _ in range(args.tasks)] for _ in range(args.steps)]
    supports, queries = ([[task[i] for task in tasks] for tasks in steps] for i in (0, 1))
    tasks = [draw_task(classes, args, rng) for _ in range(args.val_tasks)]
    trainer.fit(supports, queries, max_steps=args.steps, val_loader=[tasks], val_every=max(1, args.steps // 10))
    return trainer


def accuracy(batch: Batch, ul_model: nn.Module, ll_model: nn.Module) -> jt.Var:
    """The share of images that the learner names right."""
    return (ll_model(batch["data"]).argmax(1)[0] == batch["target"]).float32().mean()


def adapted_accuracy(
    network: Network, start: list[jt.Var], task: Task, variables: list[int], lr: float, steps: int
) -> float:
    """Accuracy on the query set after plain gradient descent on the support set from ``start``."""
    parameters = network.parameters()
    for p, value in zip(parameters, start, strict=True):
        p.update(value)
    data, target = jt.array(task.support["data"]), jt.array(task.support["target"])
    moving = [parameters[i] for i in variables]
    optimizer = jt.optim.SGD(moving, lr=lr)
    for _ in range(steps):
        optimizer.step(nn.cross_entropy_loss(network(data), target))
        jt.sync_all()
    predicted = network(jt.array(task.query["data"])).numpy().argmax(1)
    return float((predicted == task.query["target"]).mean())


def task_steps(method: str, args: argparse.Namespace) -> int:
    """Gradient steps in a task; iMAML takes more, since its gradient is that of a solved lower level."""
    if method not in CHAINS:
        return int(args.scratch_steps)
    return int(args.lower_iters) * (2 if method == "iMAML" else 1)


def tested(method: str, network: Network, tasks: list[Task], args: argparse.Namespace) -> np.ndarray:
    """The accuracy on every task."""
    parameters = network.parameters()
    start = [p.detach().clone() for p in parameters]
    if method == "GAFFO":
        start[-2], start[-1] = jt.zeros(start[-2].shape), jt.zeros(start[-1].shape)
    jt.sync(start)
    variables = list(range(len(start)))[-2 if method == "GAFFO" else 0 :]
    lr = args.ll_lr if method in CHAINS else args.scratch_lr
    scores = [adapted_accuracy(network, start, task, variables, lr, task_steps(method, args)) for task in tasks]
    for p, value in zip(parameters, start, strict=True):
        p.update(value)
    return np.array(scores)


def draw(path: Path, scores: dict[str, np.ndarray], args: argparse.Namespace) -> None:
    """Mean accuracies with their intervals, and how they are spread over the tasks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    means, spread = figure.subplots(1, 2)
    names = list(scores)
    heights = [values.mean() for values in scores.values()]
    means.bar(names, heights, yerr=[interval(values) for values in scores.values()], capsize=4)
    means.axhline(1.0 / args.ways, linestyle="--", color="gray", label="guessing")
    means.set(ylim=(0, 1), ylabel="accuracy", title=f"{args.ways}-way {args.shots}-shot, mean and 95% interval")
    means.legend()
    spread.boxplot(list(scores.values()))
    spread.set_xticks(range(1, len(names) + 1), names)
    spread.set(ylim=(0, 1), title=f"Accuracy on {len(scores[names[0]])} tasks of new classes")
    figure.savefig(path, dpi=120)


def interval(values: np.ndarray) -> float:
    """Half the width of the mean's 95% interval."""
    return float(1.96 * values.std(ddof=1) / np.sqrt(len(values)))


def run(args: argparse.Namespace) -> dict[str, np.ndarray]:
    """Train and test every method, print the table, and return the accuracies."""
    rng = np.random.default_rng(args.seed)
    if args.data:
        train, held_out = load_folder(Path(args.data), args.size, args.colour, rng)
    else:
        train, held_out = load_digits()
    ways = min(len(train), len(held_out))
    if args.ways > ways:
        raise SystemExit(f"--ways {args.ways} is more than the {ways} classes there are")
    args.shape = train[0].shape[1:3]
    tasks = [draw_task(held_out, args, rng) for _ in range(args.test_tasks)]
    scores: dict[str, np.ndarray] = {}
    print(f"{len(train)} training classes, {len(held_out)} held out; {args.ways}-way {args.shots}-shot")
    print(f"{'method':<14}{'accuracy':>9}{'95% interval':>15}{'steps in a task':>17}{'meta-training s':>17}")
    for method in ("from scratch", *args.methods):
        jt.set_global_seed(args.seed)
        network = Network(*args.shape, args.ways)
        begun = time.perf_counter()
        trainer = None if method == "from scratch" else meta_trained(method, train, network, args)
        seconds = time.perf_counter() - begun
        if trainer is not None and method in CHAINS:  # the trainer adapts as it does in training
            values = np.array([trainer.evaluate([[task]])["accuracy"] for task in tasks])
        else:
            values = tested(method, network, tasks, args)
        scores[method] = values
        width = "± " + format(interval(values), ".2%")
        in_task = task_steps(method, args)
        print(f"{method:<14}{values.mean():>9.2%}{width:>15}{in_task:>17}{seconds:>17.1f}", flush=True)
    print(f"{len(tasks)} test tasks; logs are in {args.output}")
    try:
        draw(Path(args.output) / "meta_learning.png", scores, args)
    except ImportError:
        print("no picture: matplotlib is not installed")
    return scores


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", help="folder with a folder of images for every class; without it, scikit-learn's digits")
    p.add_argument("--size", type=int, default=28, help="pixels to which --data is resized (default: %(default)s)")
    p.add_argument("--colour", action="store_true", help="keep the colours of --data")
    p.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS, help="default: all")
    p.add_argument("--ways", type=int, default=5, help="classes of a task, N (default: %(default)s)")
    p.add_argument("--shots", type=int, default=1, help="support images a class, K (default: %(default)s)")
    p.add_argument("--queries", type=int, default=5, help="query images a class (default: %(default)s)")
    p.add_argument("--tasks", type=int, default=4, help="tasks an outer step (default: %(default)s)")
    p.add_argument("--test-tasks", type=int, default=200, help="tasks to test on (default: %(default)s)")
    p.add_argument(
        "--val-tasks", type=int, default=20, help="tasks to evaluate on while training (default: %(default)s)"
    )
    p.add_argument("--lower-iters", type=int, default=5, help="lower steps (default: %(default)s)")
    p.add_argument("--steps", type=int, default=200, help="outer steps (default: %(default)s)")
    p.add_argument("--ll-lr", type=float, default=0.3, help="lower learning rate (default: %(default)s)")
    p.add_argument("--ul-lr", type=float, default=0.003, help="upper learning rate, Adam's (default: %(default)s)")
    p.add_argument("--proximal", type=float, default=0.5, help="iMAML's pull to the start (default: %(default)s)")
    p.add_argument("--scratch-lr", type=float, default=0.3, help="rate without a learned start (default: %(default)s)")
    p.add_argument("--scratch-steps", type=int, default=50, help="steps without a learned start (default: %(default)s)")
    p.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    p.add_argument("--output", default="runs/meta_learning", help="folder for logs (default: %(default)s)")
    return p


if __name__ == "__main__":
    run(parser().parse_args())
