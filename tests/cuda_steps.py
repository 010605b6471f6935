"""One outer step of every chain and first-order method on CUDA, for small models, where every number is garbage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import math

import jboat
from jboat import registry
import jboat.fo_ol
import jboat.gm_ol
import jboat.na_ol
from jboat.nn import MaxPool2d
from jboat.trainers.device_scope import device_scope
import jittor as jt
from jittor import nn
import numpy as np

SAMPLES, FEATURES, CLASSES = 8, 6, 3
MOST_TELLING = ("RAD", "CG", "FD", "VFO", "MESO", "IAD", "NS", "IGA")
MODIFIERS = {"PTT", "RGT", "GDA", "DI", "DM"}

Row = tuple[str, Callable[[], None]]


class Weights(jt.Module):
    """An upper-level model: one weight a sample."""

    def __init__(self):
        self.weights = jt.zeros(SAMPLES)


def linear() -> jt.Module:
    return nn.Linear(FEATURES, CLASSES)


def mlp() -> jt.Module:
    return nn.Sequential(nn.Linear(FEATURES, 5), nn.ReLU(), nn.Linear(5, CLASSES))


def cnn() -> jt.Module:
    layers = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), MaxPool2d(2), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(64, CLASSES))


_MODELS = {"linear": (linear, (FEATURES,)), "mlp": (mlp, (FEATURES,)), "cnn": (cnn, (1, 8, 8))}


def chains() -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Every pair of chains with at most one of the operators that change another's work, the most telling first."""
    pairs = [pair for pair in registry.valid_chains() if len(MODIFIERS & {*pair[0], *pair[1]}) <= 1]
    return sorted(pairs, key=lambda pair: (bool(MODIFIERS & {*pair[0], *pair[1]}), *_place(pair[1])))


def _place(names: tuple[str, ...]) -> tuple[int, int]:
    own = [MOST_TELLING.index(name) if name in MOST_TELLING else len(MOST_TELLING) for name in names]
    return min(own), len(names)


def steps(model: str) -> Iterator[Row]:
    """The rows of a model: a name, and what runs one hypergradient and one step of ``fit``."""
    _let_garbage_pass()
    rows: list[tuple[tuple[int, int], Row]] = []
    plain = [pair for pair in chains() if not MODIFIERS & {*pair[0], *pair[1]}]
    for gm, na in plain:
        rows.append((_place(na), (_name(gm, na), lambda gm=gm, na=na: _chain_step(model, gm, na))))
    for method in sorted(registry.operators("fo")):
        rows.append((_place((method,)), (method, lambda method=method: _first_order_step(model, method))))
    yield from (row for _, row in sorted(rows, key=lambda item: item[0]))
    for gm, na in (pair for pair in chains() if pair not in plain):
        yield _name(gm, na), lambda gm=gm, na=na: _chain_step(model, gm, na)


def _name(gm: tuple[str, ...], na: tuple[str, ...]) -> str:
    return "+".join((*(() if gm == ("NGD",) else gm), *na))


def _let_garbage_pass() -> None:
    """What the numbers are must not stop anything in this process."""
    square_root = math.sqrt
    math.isfinite = lambda value: True
    math.sqrt = lambda value: square_root(abs(value))


def _chain_step(model: str, gm: tuple[str, ...], na: tuple[str, ...]) -> None:
    trainer, lower, upper = _trainer(model, gm_op=gm, na_op=na)
    result = trainer.hypergradient(lower, upper)
    for gradient in result.gradients:
        gradient.numpy()
    trainer.fit([lower], [upper], max_steps=1, check_second_order=False)


def _first_order_step(model: str, method: str) -> None:
    trainer, lower, upper = _trainer(model, fo_op=method)
    trainer.fit([lower], [upper], max_steps=1, check_second_order=False)


def _trainer(model: str, **operators):
    make, shape = _MODELS[model]
    random = np.random.default_rng(0)
    batches = [
        {
            "x": random.normal(size=(SAMPLES, *shape)).astype("float32"),
            "y": random.integers(0, CLASSES, SAMPLES).astype("int32"),
        }
        for _ in range(2)
    ]
    learns_the_start = "IAD" in operators.get("na_op", ())
    ll_model, ul_model = make(), make() if learns_the_start else Weights()

    def f(batch, ul_model, ll_model):
        losses = nn.cross_entropy_loss(ll_model(batch["x"]), batch["y"], reduction="none")
        if not learns_the_start:
            losses = ul_model.weights.sigmoid() * losses
        trained = [p for p in ll_model.parameters() if not p.is_stop_grad()]
        return losses.mean() + 1e-3 * sum((p * p).sum() for p in trained)

    def F(batch, ul_model, ll_model):
        return nn.cross_entropy_loss(ll_model(batch["x"]), batch["y"])

    trainer = jboat.BilevelTrainer(
        ll_model,
        ul_model,
        f,
        F,
        ll_optimizer=jt.optim.SGD(ll_model.parameters(), 0.1, momentum=0.9),
        ul_optimizer=jt.optim.Adam(ul_model.parameters(), 0.01),
        lower_iters=2,
        solver_config={"RGT": {"truncate_iter": 1}},
        device="cuda",
        seed=0,
        **operators,
    )
    return trainer, *batches


def operations() -> Iterator[Row]:
    """The rows of single operations, as a trainer runs them: their value, first and second derivative."""
    yield "start", lambda: jt.random((2, 2)).sync()
    yield "matmul", lambda: _derive(lambda a: a @ a.transpose())
    yield "where", _where
    yield "softmax", lambda: _derive(lambda a: nn.softmax(a, dim=-1))


def _where() -> None:
    a = jt.array(np.ones((3, 4), "float32"))
    _derive(lambda a: jt.where(a > 0, a * a, a))
    jt.where(a > 0)[0].sync()


def _derive(function: Callable[[jt.Var], jt.Var]) -> None:
    a = jt.array(np.ones((3, 4), "float32"))
    with device_scope("cuda"):
        value = function(a)
        first = jt.grad((value * value).sum(), a)
        second = jt.grad((first * first).sum(), a)
        jt.sync([value, first, second])
    jt.sync_all(True)
