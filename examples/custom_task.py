"""A task of one's own by subclassing: learn how strongly to augment the training data.

The validation and test images are blurred by noise of a strength that nobody tells; the training images are clean. The
lower level trains a classifier on training images to which noise is added, the upper level holds the logarithm of the
noise's standard deviation and minimises the loss on the noisy validation images. Too little noise leaves the classifier
unprepared, too much drowns the digits.

The example overrides both objectives, ``evaluation_step`` and ``configure_optimizers`` of ``BilevelTrainer``, and adds
a callback written on the spot, which publishes the noise's strength as a metric. The data are scikit-learn's digits. It
prints test accuracies without augmentation, with the learned strength, and with the true one, and writes metrics.csv,
TensorBoard events and, where matplotlib is installed, a picture to the folder ``--output``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jboat import BilevelTrainer, TrainerState
from jboat.callbacks import Callback, CSVLogger, ProgressBar, TensorBoardLogger
import jittor as jt
from jittor import nn
import numpy as np


class Augmentation(jt.Module):
    """Gaussian noise with a learned standard deviation."""

    def __init__(self, strength: float) -> None:
        self.log_strength = jt.array(np.array([np.log(strength)], dtype=np.float32))

    def execute(self, x: jt.Var) -> jt.Var:
        """X with noise, of the same shape."""
        return x + self.log_strength.exp() * jt.randn(x.shape)


class AugmentationTrainer(BilevelTrainer):
    """The task: objectives, evaluation and optimizers in one class."""

    def ll_objective(self, batch: dict[str, Any], ul_model: jt.Module, ll_model: jt.Module) -> jt.Var:
        """Loss on augmented training images."""
        return nn.cross_entropy_loss(ll_model(ul_model(batch["data"])), batch["target"])

    def ul_objective(self, batch: dict[str, Any], ul_model: jt.Module, ll_model: jt.Module) -> jt.Var:
        """Loss on validation images as they are."""
        return nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"])

    def evaluation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Accuracy alone."""
        predicted = self.ll_model(batch["data"]).numpy().argmax(1)
        return {"accuracy": float((predicted == batch["target"].numpy()).mean())}

    def configure_optimizers(self) -> tuple[jt.optim.Optimizer, jt.optim.Optimizer]:
        """SGD below, Adam above."""
        return jt.optim.SGD(self.ll_model.parameters(), lr=0.5), jt.optim.Adam(self.ul_model.parameters(), lr=0.1)


class StrengthMetric(Callback):
    """Publishes the noise's strength after every outer step."""

    def on_step_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Add to the metrics, which the loggers write."""
        state.metrics["strength"] = float(np.exp(trainer.ul_var[0].numpy()[0]))


def load(noise: float, seed: int) -> list[dict[str, np.ndarray]]:
    """400 clean training digits, 400 validation and 997 test digits with noise."""
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(seed)
    x, y = load_digits(return_X_y=True)
    order = rng.permutation(len(x))
    x, y = (x[order] / 16.0).astype(np.float32), y[order].astype(np.int32)
    x[400:] += noise * rng.normal(size=x[400:].shape).astype(np.float32)
    return [{"data": x[s], "target": y[s]} for s in (slice(400), slice(400, 800), slice(800, None))]


def classifier() -> jt.Module:
    """One hidden layer, enough to learn the training images by heart."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def train_plainly(
    strength: float, train: dict[str, np.ndarray], test: dict[str, np.ndarray], args: argparse.Namespace
) -> float:
    """Test accuracy of a fresh classifier trained with noise of a fixed strength."""
    jt.set_global_seed(args.seed)
    model = classifier()
    optimizer = jt.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    data, target = jt.array(train["data"]), jt.array(train["target"])
    for _ in range(args.final_steps):
        optimizer.step(nn.cross_entropy_loss(model(data + strength * jt.randn(data.shape)), target))
        jt.sync_all()
    predicted = model(jt.array(test["data"])).numpy().argmax(1)
    return float((predicted == test["target"]).mean())


def draw(path: Path, trainer: BilevelTrainer, noise: float) -> None:
    """The learned strength and the validation accuracy over the outer steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    strength, accuracy = figure.subplots(1, 2)
    strength.plot(trainer.history["step"], trainer.history["strength"], label="learned")
    strength.axhline(noise, linestyle="--", color="gray", label="noise in the validation data")
    strength.set(xlabel="outer step", ylabel="standard deviation", title="Strength of the augmentation")
    strength.legend()
    rows = [row for row in trainer.history if "val_accuracy" in row]
    accuracy.plot([row["step"] for row in rows], [row["val_accuracy"] for row in rows])
    accuracy.set(xlabel="outer step", title="Validation accuracy")
    figure.savefig(path, dpi=120)


def run(args: argparse.Namespace) -> dict[str, float]:
    """Train, print the table, and return its numbers."""
    jt.set_global_seed(args.seed)
    train, val, test = load(args.noise, args.seed)
    augmentation = Augmentation(0.05)
    trainer = AugmentationTrainer(
        classifier(),
        augmentation,
        lower_iters=10,
        callbacks=[ProgressBar(), StrengthMetric(), CSVLogger(times=False), TensorBoardLogger()],
        logger_dir=args.output,
        seed=args.seed,
    )
    trainer.fit(train, val, max_steps=args.steps, val_loader=val, val_every=10)
    strength = float(np.exp(augmentation.log_strength.numpy()[0]))
    results = {
        "none": train_plainly(0.0, train, test, args),
        "learned": train_plainly(strength, train, test, args),
        "true": train_plainly(args.noise, train, test, args),
        "strength": strength,
    }
    print(f"\nnoise in the validation data {args.noise:.2f}, learned strength {strength:.2f}")
    print("test accuracy without augmentation    {none:7.2%}".format(**results))
    print("test accuracy, learned strength       {learned:7.2%}".format(**results))
    print("test accuracy, strength of the noise  {true:7.2%}".format(**results))
    print(f"logs are in {args.output}")
    try:
        draw(Path(args.output) / "custom_task.png", trainer, args.noise)
    except ImportError:
        print("no picture: matplotlib is not installed")
    return results


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--noise", type=float, default=0.5, help="noise of the validation data (default: %(default)s)")
    p.add_argument("--steps", type=int, default=100, help="outer steps (default: %(default)s)")
    p.add_argument(
        "--final-steps", type=int, default=400, help="steps of the three final trainings (default: %(default)s)"
    )
    p.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    p.add_argument("--output", default="runs/custom_task", help="folder for logs (default: %(default)s)")
    return p


if __name__ == "__main__":
    run(parser().parse_args())
