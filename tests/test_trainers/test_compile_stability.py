"""Kernels are loaded for the first steps, and then serve every step, K, number of iterations and batch size."""

import gc
import os

from jboat import BilevelTrainer
import jittor as jt
from jittor import nn
import numpy as np
from problems import Point
import pytest

SIDE, CLASSES = 6, 3
RNG = np.random.default_rng(0)


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, CLASSES))


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 8), nn.ReLU(), nn.Linear(8, CLASSES))


def cnn():
    return nn.Sequential(
        nn.Conv(1, 3, 3, padding=1), nn.ReLU(), nn.Conv(3, 3, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(3 * SIDE * SIDE, CLASSES),
    )  # fmt: skip


MODELS = {"linear": linear, "mlp": mlp, "cnn": cnn}


def batch(n):
    images = RNG.normal(size=(n, 1, SIDE, SIDE)).astype("float32")
    return {"data": images, "target": RNG.integers(0, CLASSES, n).astype("int32")}


def f(feed, ul_model, ll_model):
    loss = nn.cross_entropy_loss(ll_model(feed["data"]), feed["target"])
    return loss + (ul_model().exp() * sum((p * p).sum() for p in ll_model.parameters())).sum()


def F(feed, ul_model, ll_model):
    return nn.cross_entropy_loss(ll_model(feed["data"]), feed["target"])


def make(model, *, na_op=("RAD",), lower_iters=5, optimizer=None, **kwargs):
    ll_model, ul_model = MODELS[model](), Point([-3.0, -4.0])
    ll_optimizer = (optimizer or (lambda p: jt.optim.SGD(p, 0.1)))(list(ll_model.parameters()))
    ul_optimizer = jt.optim.Adam(list(ul_model.parameters()), 0.01)
    return BilevelTrainer(
        ll_model, ul_model, f, F, ll_optimizer=ll_optimizer, ul_optimizer=ul_optimizer,
        na_op=na_op, lower_iters=lower_iters, **kwargs,
    )  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_more_lower_steps_outer_steps_and_samples(model, loaded_kernels):
    make(model).fit(batch(8), batch(6), max_steps=2)
    loaded_kernels.restart()
    make(model, lower_iters=50).fit(batch(8), batch(6), max_steps=2)
    assert len(loaded_kernels.new()) <= 3
    loaded_kernels.restart()
    make(model).fit(batch(8), batch(6), max_steps=30)
    make(model).fit(batch(11), batch(9), max_steps=2)
    assert loaded_kernels.new() == []


def test_more_conjugate_gradient_iterations(loaded_kernels):
    def run(k):
        config = {"CG": {"k": k, "tolerance": 0.0}}
        make("mlp", na_op=("CG",), solver_config=config).fit(batch(8), batch(6), max_steps=2)

    run(5)
    loaded_kernels.restart()
    run(30)
    assert loaded_kernels.new() == []


def test_a_lower_adam_compiles_nothing_new_either(loaded_kernels):
    def run(lower_iters, steps):
        make("linear", lower_iters=lower_iters, optimizer=lambda p: jt.optim.Adam(p, 0.01)).fit(
            batch(8), batch(6), max_steps=steps
        )

    run(5, 2)
    loaded_kernels.restart()
    run(50, 3)
    assert len(loaded_kernels.new()) <= 3
    loaded_kernels.restart()
    run(5, 30)
    assert loaded_kernels.new() == []


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("na_op", [("RAD",), ("PTT", "CG")], ids="+".join)
def test_neither_vars_nor_memory_grow(na_op):
    trainer = make("mlp", na_op=na_op, gm_op=("GDA", "NGD"))
    feeds = batch(8), batch(6)

    def measured(steps):
        trainer.fit(*feeds, max_steps=steps)
        jt.sync_all(True)
        gc.collect()
        return jt.number_of_lived_vars(), resident_bytes()

    measured(10)
    vars_before, bytes_before = measured(1)
    vars_after, bytes_after = measured(190)
    assert vars_after == vars_before
    assert bytes_after - bytes_before < 4 << 20
