"""A run with dropout that is resumed draws the numbers that it would have drawn, whatever moves y and x."""

from jboat import BilevelTrainer
import jittor as jt
from jittor import nn
import numpy as np
from problems import Point
import pytest

RNG = np.random.default_rng(0)
METHODS = {
    "RAD": {},
    "DM": {"gm_op": ["DM"]},
    **{name: {"fo_op": name} for name in ("ALTO", "MESO", "VFO")},
    **{name: {"sl_op": name} for name in ("SOBA", "SABA", "MRBO", "STOCBIO", "F2SA")},
}


def batches(count):
    return [
        {"data": RNG.normal(size=(8, 6)).astype("float32"), "target": RNG.integers(0, 3, 8).astype("int32")}
        for _ in range(count)
    ]


LOADERS = batches(3), batches(2)


def F(batch, ul_model, ll_model):
    return nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"])


def f(batch, ul_model, ll_model):
    return F(batch, ul_model, ll_model) + (ul_model().exp() * sum((p * p).sum() for p in ll_model.parameters())).sum()


def make(method):
    jt.set_global_seed(1)
    ll_model, ul_model = (
        nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.5, is_train=True), nn.Linear(8, 3)),
        Point([-3.0]),
    )
    jt.sync(list(ll_model.parameters()))  # or they would be drawn later
    return BilevelTrainer(
        ll_model,
        ul_model,
        f,
        F,
        ll_optimizer=jt.optim.SGD(list(ll_model.parameters()), 0.05),
        ul_optimizer=jt.optim.SGD(list(ul_model.parameters()), 0.1),
        lower_iters=2,
        seed=5,
        **METHODS[method],
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_draws_the_numbers_of_one_that_was_not_stopped(method, tmp_path):
    through, first = make(method), make(method)
    through.fit(*LOADERS, max_steps=5)
    first.fit(*LOADERS, max_steps=3)
    first.save_checkpoint(tmp_path / "three.npz")
    second = make(method)
    second.fit(*LOADERS, max_steps=5, resume_from=tmp_path / "three.npz")
    for name, value in through.values().items():
        np.testing.assert_array_equal(second.values()[name], value, err_msg=name)
