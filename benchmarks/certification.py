"""Hypergradients of one model beside central differences of the loop that plain Jittor runs.

The upper variables weigh the lower samples. The lower objective is the weighted cross entropy and a pull towards the
start, ``c/2 ||y - y_0||^2``, and lower steps have the rate 1/c: every step leads c / ||Hessian|| times closer to the
solution. c is chosen so that this is two to four times: after ten steps CG has the derivative of the loop as well, and
a wrong Hessian still counts, as it would not under a stronger pull. Differences are taken outside of the trainer, with
Jittor's own optimizer and none of its functions replaced.
"""

from __future__ import annotations

from collections.abc import Callable
import contextlib
from typing import Any
from unittest import mock

from certified_models import Case, batches
from jboat import BilevelTrainer
from jboat.callbacks.hypergradient_check import compared
import jittor as jt
from jittor import nn
import numpy as np

STEPS = {"RAD": 2, "CG": 10}
RADIUS, SMALLER = 0.2, 4.0
TOLERANCE = 0.02
CONTRACTION = 0.5  # how much shorter a lower step is than the one before, at least; half of that at most
TRIES = 15
VERDICTS = {1: "right", 0: "inconclusive", -1: "wrong"}


class NoPullError(ValueError):
    """The lower steps do not become shorter with any pull, as where they lead from one side of a kink to the other."""


class Weights(jt.Module):
    """A weight for each lower sample, before a sigmoid."""

    def __init__(self, values: np.ndarray) -> None:
        self.w = jt.array(values.astype("float32"))


def logits(model: jt.Module, batch: dict[str, Any]) -> jt.Var:
    """The model's output, or the first of several."""
    out = model(batch["data"])
    return out[0] if isinstance(out, tuple | list) else out


def trained(model: jt.Module) -> list[jt.Var]:
    """The variables of a model that have a gradient, without those that weight normalisation makes of two others."""
    named = {name: p for name, p in model.named_parameters() if not p.is_stop_grad()}
    return [p for name, p in named.items() if f"{name}_v" not in named]


class Lower:
    """The lower objective, with its pull of strength ``c`` towards where the model was."""

    def __init__(self, model: jt.Module, c: float) -> None:
        self.start = [jt.array(p.numpy()) for p in trained(model)]
        self.c = c

    def __call__(self, batch: dict[str, Any], ul_model: jt.Module, ll_model: jt.Module) -> jt.Var:
        """Its value, a scalar."""
        losses = nn.cross_entropy_loss(logits(ll_model, batch), batch["target"], reduction="none")
        apart = [((p - s) * (p - s)).sum() for p, s in zip(trained(ll_model), self.start, strict=True)]
        return (losses * ul_model.w.sigmoid()).mean() + 0.5 * self.c * sum(apart)


def upper(batch: dict[str, Any], ul_model: jt.Module, ll_model: jt.Module) -> jt.Var:
    """The plain cross entropy."""
    return nn.cross_entropy_loss(logits(ll_model, batch), batch["target"])


def smooth(x: jt.Var) -> jt.Var:
    """What stands for ReLU, without its kink."""
    return x * x.sigmoid()


@contextlib.contextmanager
def smoothed(wanted: bool) -> Any:
    """Let models use :func:`smooth` for ReLU inside the block, as a user's function in the place of Jittor's."""
    if not wanted:
        yield
        return
    with (
        mock.patch.object(nn, "relu", smooth),
        mock.patch.object(nn, "relu6", smooth),
        mock.patch.object(nn.ReLU, "execute", lambda self, x: smooth(x)),
        mock.patch.object(nn.ReLU6, "execute", lambda self, x: smooth(x)),
    ):
        yield


def _last_contraction(lengths: list[float]) -> float:
    """How much shorter the last step is than the one before."""
    return lengths[-1] / lengths[-2] if np.isfinite(lengths[-1]) and lengths[-2] else 100.0


def _average_contraction(lengths: list[float]) -> float:
    """How much shorter each step is than the one before, on average: single ones may lead back over a kink."""
    return float((lengths[-1] / lengths[0]) ** (1.0 / (len(lengths) - 1))) if np.isfinite(lengths).all() else 100.0


class PlainLoop:
    """K lower steps of Jittor's own, from the same start for every x."""

    def __init__(self, model: jt.Module, feeds: tuple[dict[str, np.ndarray], dict[str, np.ndarray]], c: float) -> None:
        self._model = model
        self._lower_batch, self._upper_batch = ({k: jt.array(v) for k, v in feed.items()} for feed in feeds)
        self._values = [p.numpy().copy() for p in model.parameters()]
        self.lower = Lower(model, c)

    def steps(self, x: np.ndarray, k: int) -> list[float]:
        """How far each of k steps goes; the model stays where they lead."""
        for p, value in zip(self._model.parameters(), self._values, strict=True):
            p.update(jt.array(value))
        weights, lengths = Weights(x), []
        variables = trained(self._model)
        optimizer = jt.optim.SGD(variables, 1.0 / self.lower.c)
        for _ in range(k):
            before = [p.numpy().copy() for p in variables]
            optimizer.step(self.lower(self._lower_batch, weights, self._model))
            apart = [np.linalg.norm(p.numpy() - b) for p, b in zip(variables, before, strict=True)]
            lengths.append(float(np.linalg.norm(apart)))
        return lengths

    def value(self, x: np.ndarray, k: int) -> float:
        """F after k steps."""
        self.steps(x, k)
        return float(upper(self._upper_batch, Weights(x), self._model).item())

    def choose_pull(self, x: np.ndarray) -> None:
        """Set c so that the steps become shorter as :data:`CONTRACTION` says.

        Raises:
            NoPullError: if no c is found with which they do.
        """
        start = self.lower.c
        for contraction in (_last_contraction, _average_contraction):
            self.lower.c = start
            for _ in range(TRIES):
                lengths = self.steps(x, 4)
                ratio = contraction(lengths)
                if 0.5 * CONTRACTION <= ratio <= CONTRACTION:
                    return
                self.lower.c *= min(max(ratio / (0.75 * CONTRACTION), 0.1), 10.0)
        raise NoPullError(f"no pull makes the lower steps shorter as wanted; with c = {self.lower.c}: {lengths}")

    def put_back(self) -> None:
        """Let the model be where it was."""
        self.steps(np.zeros(1), 0)


def certify(case: Case, *, smooth_activations: bool = False, changed: Callable[[jt.Module], None] | None = None) -> Any:
    """One model's hypergradients by RAD and CG beside differences.

    Args:
        case: the model.
        smooth_activations: put a smooth function in the place of ReLU.
        changed: called with the model before anything else.

    Returns:
        A dict: ``parameters``, how many there are; ``c``; and for each method a dict of the fields of
        :class:`jboat.callbacks.hypergradient_check.Comparison`, its verdict as a word.
    """
    jt.set_global_seed(0)
    feeds = batches(case)
    x = np.linspace(-0.5, 0.5, case.samples)
    with smoothed(smooth_activations):
        model = case.make()
        if changed is not None:
            changed(model)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.eval()  # the plain loop draws other numbers
        loop = PlainLoop(model, feeds, 1.0)
        loop.choose_pull(x)
        loop.put_back()
        found: dict[str, Any] = {"parameters": sum(p.numel() for p in trained(model)), "c": loop.lower.c}
        for method, k in STEPS.items():
            found[method] = _beside_differences(method, k, model, feeds, x, loop)
    return found


def _beside_differences(
    method: str, k: int, model: jt.Module, feeds: tuple[dict[str, Any], dict[str, Any]], x: np.ndarray, loop: PlainLoop
) -> dict[str, Any]:
    weights = Weights(x)
    trainer = BilevelTrainer(
        model,
        weights,
        loop.lower,
        upper,
        ll_optimizer=jt.optim.SGD(trained(model), 1.0 / loop.lower.c),
        ul_optimizer=jt.optim.SGD([weights.w], 0.1),
        na_op=[method],
        lower_iters=k,
        solver_config={"CG": {"k": k}} if method == "CG" else None,
    )
    gradient = trainer.hypergradient(*feeds, check_second_order=False).gradients[0].numpy().astype(np.float64)
    random = np.random.default_rng(1).normal(size=x.shape)
    directions = [d / max(float(np.linalg.norm(d)), 1e-30) for d in (gradient, random)]
    differences, largest = [], 0.0
    for radius in (RADIUS, RADIUS / SMALLER):
        row = []
        for direction in directions:
            ends = [loop.value(x + sign * radius * direction, k) for sign in (1.0, -1.0)]
            row.append((ends[0] - ends[1]) / (2.0 * radius))
            largest = max(largest, *map(abs, ends))
        differences.append(np.array(row))
    loop.put_back()
    rounding = float(np.finfo(np.float32).eps) * largest * SMALLER / RADIUS
    slopes = np.array([float(gradient @ d) for d in directions])
    result = compared(slopes, *differences, rounding, TOLERANCE)
    return {**result._asdict(), "verdict": VERDICTS[result.verdict]}
