"""Hypergradients of one model beside central differences of the loop that plain Jittor runs.

The upper variables weigh the lower samples. The lower objective is the weighted cross entropy and a pull towards the
start, ``c/2 ||y - y_0||^2``, and lower steps have the rate 1/c: every step leads c / ||Hessian|| times closer to the
solution. For RAD c is chosen so that the second step is a fifth to a half as long as the first: the Hessian counts. CG
has the derivative of the loop where that has converged, for which every step is to be five to ten times shorter than
the one before. Across kinks steps lead back and forth for ever instead, unless the pull is so strong that the Hessian
hardly counts: CG is tried where there are none, so without ReLUs and maximum pooling in deep networks.

Differences are taken outside of the trainer, with Jittor's own optimizer and none of jboat's functions, in float64: in
float32 those of a deep network with BatchNorm are wrong by a tenth and more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import copy
from typing import Any
from unittest import mock

from certified_models import Case, batches
from double_precision import double_precision
from jboat import BilevelTrainer
from jboat.callbacks.hypergradient_check import compared
import jittor as jt
from jittor import nn
import numpy as np

STEPS = {"RAD": 2, "CG": 8}
CONTRACTION = {"RAD": (0.2, 0.5), "CG": (0.1, 0.2)}  # how long the last step that is looked at is beside the one before
LOOKED_AT = {"RAD": 2, "CG": 4}
RADIUS, SMALLER = 1e-5, 4.0
TOLERANCE = 1e-3
TRIES = 15
MOVED_STARTS = (1, 2, 3)
VERDICTS = {1: "right", 0: "inconclusive", -1: "wrong"}
NOT_TRIED = "not tried"
AS_SMOOTH = "as above"


class NoPullError(ValueError):
    """The lower steps do not become shorter with any pull, as where they lead from one side of a kink to the other."""


class Weights(jt.Module):
    """A weight for each lower sample, before a sigmoid."""

    def __init__(self, values: np.ndarray) -> None:
        self.w = jt.array(values)


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
def smoothed() -> Iterator[None]:
    """Let models use :func:`smooth` for ReLU inside the block, as a user's function in the place of Jittor's."""
    with (
        mock.patch.object(nn, "relu", smooth),
        mock.patch.object(nn, "relu6", smooth),
        mock.patch.object(nn.ReLU, "execute", lambda self, x: smooth(x)),
        mock.patch.object(nn.ReLU6, "execute", lambda self, x: smooth(x)),
    ):
        yield


@contextlib.contextmanager
def averaged() -> Iterator[None]:
    """Let models take the mean of windows for their maximum inside the block."""
    jittors = nn.Pool.execute

    def execute(self: nn.Pool, x: jt.Var) -> jt.Var:
        layer = copy.copy(self)
        layer.op = "mean"
        return jittors(layer, x)

    with mock.patch.object(nn.Pool, "execute", execute):
        yield


class PlainLoop:
    """K lower steps of Jittor's own in float64, from the same start for every x.

    Args:
        model: whose parameters become float64, and are the start.
        feeds: the lower and the upper batch.
    """

    def __init__(self, model: jt.Module, feeds: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]) -> None:
        self._model = model
        with double_precision():
            model.float64()
            self._values = [p.numpy().copy() for p in model.parameters()]
            self._lower_batch, self._upper_batch = ({k: jt.array(_wide(v)) for k, v in feed.items()} for feed in feeds)
            self.lower = Lower(model, 1.0)

    def steps(self, x: np.ndarray, k: int, *, measured: bool = False) -> list[float]:
        """How far each of k steps goes, if ``measured``; the model stays where they lead."""
        with double_precision():
            for p, value in zip(self._model.parameters(), self._values, strict=True):
                p.update(jt.array(value))
            weights, lengths = Weights(x), []
            variables = trained(self._model)
            optimizer = jt.optim.SGD(variables, 1.0 / self.lower.c)
            for _ in range(k):
                before = [p.numpy().copy() for p in variables] if measured else []
                optimizer.step(self.lower(self._lower_batch, weights, self._model))
                if not measured:
                    continue
                apart = [np.linalg.norm(p.numpy() - b) for p, b in zip(variables, before, strict=True)]
                lengths.append(float(np.linalg.norm(apart)))
        return lengths

    def value(self, x: np.ndarray, k: int) -> float:
        """F after k steps."""
        self.steps(x, k)
        with double_precision():
            return float(upper(self._upper_batch, Weights(x), self._model).item())

    @contextlib.contextmanager
    def moved_start(self, seed: int) -> Iterator[None]:
        """Start beside the start inside the block, by as much as float32 rounds."""
        random, own = np.random.default_rng(seed), self._values
        moved = float(np.finfo(np.float32).eps)
        self._values = [v * (1.0 + moved * random.normal(size=v.shape)) for v in own]
        try:
            yield
        finally:
            self._values = own

    def choose_pull(self, x: np.ndarray, method: str) -> None:
        """Set c so that the steps become shorter as :data:`CONTRACTION` says.

        Raises:
            NoPullError: if no c is found with which they do.
        """
        least, most = CONTRACTION[method]
        for _ in range(TRIES):
            lengths = self.steps(x, LOOKED_AT[method], measured=True)
            ratio = lengths[-1] / lengths[-2] if np.isfinite(lengths[-1]) and lengths[-2] else 100.0
            if least <= ratio <= most:
                return
            self.lower.c *= min(max(2.0 * ratio / (least + most), 0.1), 10.0)
        raise NoPullError(f"no pull makes the lower steps shorter as wanted; with c = {self.lower.c}: {lengths}")


def _wide(values: np.ndarray) -> np.ndarray:
    return values.astype("float64") if values.dtype == np.float32 else values


def certify(
    case: Case,
    *,
    smooth_activations: bool = False,
    rad_without_kinks: bool = False,
    changed: Callable[[jt.Module], None] | None = None,
) -> Any:
    """One model's hypergradients by RAD and CG beside differences.

    Args:
        case: the model.
        smooth_activations: put a smooth function in the place of ReLU and, for CG, means in that of maximum pooling.
        rad_without_kinks: these means for RAD too, which alone is then certified.
        changed: called with the model, and with its copy for the plain loop, before anything else.

    Returns:
        A dict: ``parameters``, how many there are, and for each method a dict: ``c``, and the fields of
        :class:`jboat.callbacks.hypergradient_check.Comparison`, its verdict as a word; or a verdict alone,
        :data:`NOT_TRIED`, where kinks keep CG's loop from converging.
    """
    jt.set_global_seed(0)
    feeds = batches(case)
    found: dict[str, Any] = {}
    for method in STEPS:
        if method == "CG" and (rad_without_kinks or (case.kinks and not smooth_activations)):
            found[method] = {"verdict": AS_SMOOTH if rad_without_kinks else NOT_TRIED}
            continue
        with contextlib.ExitStack() as replaced:
            if smooth_activations:
                replaced.enter_context(smoothed())
                if method == "CG" or rad_without_kinks:
                    replaced.enter_context(averaged())
            model, twin = _made(case, changed), _made(case, changed)
            for p, own in zip(twin.parameters(), model.parameters(), strict=True):
                p.update(jt.array(own.numpy()))
            found["parameters"] = sum(p.numel() for p in trained(model))
            found[method] = _beside_differences(method, model, feeds, PlainLoop(twin, feeds))
    return found


def _made(case: Case, changed: Callable[[jt.Module], None] | None) -> jt.Module:
    model = case.make()
    if changed is not None:
        changed(model)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()  # the plain loop draws other numbers
    return model


def _beside_differences(
    method: str, model: jt.Module, feeds: tuple[dict[str, Any], dict[str, Any]], loop: PlainLoop
) -> dict[str, Any]:
    k, x = STEPS[method], np.linspace(-0.5, 0.5, len(feeds[0]["target"])).astype("float32")
    loop.choose_pull(x.astype("float64"), method)
    weights, c = Weights(x), loop.lower.c
    trainer = BilevelTrainer(
        model,
        weights,
        Lower(model, c),
        upper,
        ll_optimizer=jt.optim.SGD(trained(model), 1.0 / c),
        ul_optimizer=jt.optim.SGD([weights.w], 0.1),
        na_op=[method],
        lower_iters=k,
        solver_config={"CG": {"k": k}} if method == "CG" else None,
    )
    gradient = trainer.hypergradient(*feeds, check_second_order=False).gradients[0].numpy().astype(np.float64)
    random = np.random.default_rng(1).normal(size=x.shape)
    directions = [d / max(float(np.linalg.norm(d)), 1e-30) for d in (gradient, random)]
    largest = 0.0

    def differences(radius: float) -> np.ndarray:
        nonlocal largest
        found = []
        for direction in directions:
            ends = [loop.value(x + sign * radius * direction, k) for sign in (1.0, -1.0)]
            found.append((ends[0] - ends[1]) / (2.0 * radius))
            largest = max(largest, *map(abs, ends))
        return np.array(found)

    wide, narrow = differences(RADIUS), differences(RADIUS / SMALLER)
    rounding = float(np.finfo(np.float64).eps) * largest * SMALLER / RADIUS
    slopes = np.array([float(gradient @ d) for d in directions])
    result = compared(slopes, wide, narrow, rounding, TOLERANCE)
    if result.verdict < 0:  # or is it float32's rounding, which leads over other kinks?
        beside = []
        for seed in MOVED_STARTS:
            with loop.moved_start(seed):
                beside.append(differences(RADIUS))
        farthest = max(beside, key=lambda found: float(np.linalg.norm(found - wide)))
        result = compared(slopes, wide, farthest, rounding, TOLERANCE)
    return {"c": c, **result._asdict(), "verdict": VERDICTS[result.verdict]}
