"""Operations whose second derivative is wrong are found before training, and jboat.nn has right ones."""

import time

from jboat import BilevelTrainer, second_order
from jboat import nn as jboat_nn
from jboat.trainers.second_order_check import SecondOrderError
import jittor as jt
from jittor import nn
import numpy as np
from problems import Point
import pytest

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(6, 1, 6, 6)).astype("float32")
LABELS = RNG.integers(0, 3, 6).astype("int32")


def network(pool):
    return nn.Sequential(nn.Conv(1, 3, 3, padding=1), nn.Tanh(), pool, nn.Flatten(), nn.Linear(27, 3))


def f(batch, ul_model, ll_model):
    return nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"]) * ul_model().exp().sum()


def F(batch, ul_model, ll_model):
    return nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"])


def make(pool, **kwargs):
    ll_model, ul_model = network(pool), Point([0.1])
    return BilevelTrainer(
        ll_model,
        ul_model,
        f,
        F,
        ll_optimizer=jt.optim.SGD(ll_model.parameters(), 0.1),
        ul_optimizer=jt.optim.SGD(ul_model.parameters(), 0.1),
        lower_iters=2,
        **kwargs,
    )


FEEDS = {"data": IMAGES, "target": LABELS}


@pytest.mark.parametrize("na_op", [["RAD"], ["CG"]])
def test_jittors_max_pooling_is_refused_and_named(na_op):
    trainer = make(nn.Pool(2, 2, op="maximum"), na_op=na_op)
    before = trainer.values()
    with pytest.raises(SecondOrderError, match=r"finite differences.*Suspects: 2 \(Pool\); jboat\.nn has max pooling"):
        trainer.fit(FEEDS, FEEDS)
    np.testing.assert_equal(trainer.values(), before)


def test_it_is_not_asked_where_no_second_derivative_is_taken():
    make(nn.Pool(2, 2, op="maximum"), na_op=["FD"]).fit(FEEDS, FEEDS)
    make(nn.Pool(2, 2, op="maximum"), check_second_order=False).fit(FEEDS, FEEDS)


@pytest.mark.parametrize("pool", [jboat_nn.MaxPool2d(2), nn.Pool(2, 2, op="mean")], ids=["ours", "mean"])
def test_right_ones_pass_and_the_check_takes_little_time(pool):
    trainer = make(pool)
    trainer.fit(FEEDS, FEEDS)
    begun = time.perf_counter()
    make(pool).fit(FEEDS, FEEDS)
    assert time.perf_counter() - begun < 1.0


def test_relu_networks_pass():
    model = nn.Sequential(nn.Linear(10, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 3))
    x = jt.array(RNG.normal(size=(20, 10)).astype("float32"))
    y = jt.array(RNG.integers(0, 3, 20).astype("int32"))
    parameters = [p.detach() for p in model.parameters()]

    def value(ps):
        h = x
        for i in (0, 2, 4):
            h = h @ ps[i].transpose() + ps[i + 1]
            h = nn.relu(h) if i < 4 else h
        return nn.cross_entropy_loss(h, y)

    assert second_order.disagreement(value, parameters) < second_order.TOLERANCE


def test_disagreement_of_known_functions():
    y = [jt.array([1.0, -2.0, 0.5])]
    cubic = lambda v: (v[0] * v[0] * v[0]).sum()  # noqa: E731
    assert second_order.disagreement(cubic, y) < 1e-2
    assert second_order.disagreement(lambda v: (v[0] * 3.0).sum(), y) == 0.0
    hidden = lambda v: (v[0].detach() * v[0] * v[0]).sum()  # noqa: E731
    assert second_order.disagreement(hidden, y) > 0.3


def exact_pool(x, k, s, p):
    padded = np.pad(x, ((0, 0), (0, 0), (p, p), (p, p)), constant_values=-np.inf)
    out = [(n + 2 * p - k) // s + 1 for n in x.shape[2:]]
    rows = [
        [padded[:, :, i * s : i * s + k, j * s : j * s + k].max((2, 3)) for j in range(out[1])] for i in range(out[0])
    ]
    return np.stack([np.stack(r, -1) for r in rows], -2)


@pytest.mark.parametrize(("k", "s", "p"), [(2, 2, 0), (3, 2, 1), (3, 1, 0)])
def test_max_pooling_forwards(k, s, p):
    got = jboat_nn.max_pool2d(jt.array(IMAGES), k, s, p).numpy()
    np.testing.assert_array_equal(got, exact_pool(IMAGES, k, s, p))


def test_max_pooling_backwards_and_twice():
    """sum(pool(x)^3): the gradient at each window's maximum m is 3 m^2, the Hessian 6 m."""
    x = jt.array(IMAGES)
    pooled = jboat_nn.max_pool2d(x, 2)
    (gradient,) = jt.grad((pooled * pooled * pooled).sum(), [x])
    v = RNG.normal(size=IMAGES.shape).astype("float32")
    (product,) = jt.grad((gradient * jt.array(v)).sum(), [x])
    largest = exact_pool(IMAGES, 2, 2, 0).repeat(2, 2).repeat(2, 3) == IMAGES
    np.testing.assert_allclose(gradient.numpy(), 3 * IMAGES**2 * largest, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(product.numpy(), 6 * IMAGES * v * largest, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0,), "at least 1"), ((2, 2, 2), "half a window"), ((9,), "does not fit into 6 x 6")],
)
def test_max_pooling_refuses_sizes_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        jboat_nn.max_pool2d(jt.array(IMAGES), *arguments)
