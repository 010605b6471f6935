"""Operations whose second derivative is wrong are found before the first step, and right ones are let pass."""

import time

from jboat import BilevelTrainer, SecondOrderError, second_order
from jboat import nn as jboat_nn
import jittor as jt
from jittor import nn
import numpy as np
from problems import Point
import pytest

RNG = np.random.default_rng(0)
FEED = {
    "data": RNG.normal(size=(6, 1, 6, 6)).astype("float32"),
    "target": RNG.integers(0, 3, 6).astype("int32"),
}


class Network(jt.Module):
    def __init__(self, pool, activation):
        self.conv = nn.Conv(1, 3, 3, padding=1)
        self.pool = pool
        self.activation = activation
        self.head = nn.Linear(27, 3)

    def execute(self, x):
        return self.head(self.pool(self.activation(self.conv(x))).reshape(x.shape[0], -1))


def f(batch, ul_model, ll_model):
    return nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"]) * ul_model().exp().sum()


def F(batch, ul_model, ll_model):
    return nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"])


def make(pool, *, activation=jt.tanh, lower=f, **kwargs):
    jt.set_global_seed(0)
    ll_model, ul_model = Network(pool, activation), Point([0.1])
    return BilevelTrainer(
        ll_model,
        ul_model,
        lower,
        F,
        ll_optimizer=jt.optim.SGD(ll_model.parameters(), 0.1),
        ul_optimizer=jt.optim.SGD(ul_model.parameters(), 0.1),
        lower_iters=2,
        **kwargs,
    )


class Square(jt.Function):
    """Its gradient uses an input that was saved, so that its second derivative is zero."""

    def execute(self, x):
        self.saved = x
        return x * x

    def grad(self, g):
        return 2.0 * self.saved.detach() * g


class Reversed(jt.Function):
    """A linear gradient, right however often it is taken."""

    def execute(self, x):
        return 2.0 * x

    def grad(self, g):
        return 2.0 * g


@pytest.mark.parametrize("activation", [jt.tanh, nn.relu], ids=["tanh", "relu"])
@pytest.mark.parametrize(
    "chain", [{"na_op": ["RAD"]}, {"na_op": ["CG"]}, {"na_op": ["FD"], "gm_op": ["DI", "NGD"]}], ids=str
)
def test_jittors_max_pooling_is_refused_and_named(chain, activation):
    trainer = make(nn.MaxPool2d(2, 2), activation=activation, **chain)
    before = trainer.values()
    with pytest.raises(SecondOrderError, match=r"check_second_order: .*differs.* Suspects.*maximum pooling 'pool'"):
        trainer.fit(FEED, FEED)
    np.testing.assert_equal(trainer.values(), before)
    assert trainer.state.step == 0


def test_a_subclass_of_jittors_pooling_is_refused_too():
    class Halving(nn.Pool):
        def __init__(self):
            super().__init__(2, 2, op="maximum")

    with pytest.raises(SecondOrderError, match=r"Suspects.*maximum pooling 'pool'"):
        make(Halving()).fit(FEED, FEED)


def test_pooling_by_a_function_is_refused():
    with pytest.raises(SecondOrderError, match=r"Suspects.*maximum pooling"):
        make(lambda x: nn.max_pool2d(x, 2, 2)).fit(FEED, FEED)


def test_a_function_that_saves_its_input_is_refused():
    with pytest.raises(SecondOrderError, match=r"Suspects.*Square \(a jt\.Function\)"):
        make(lambda x: nn.avg_pool2d(Square.apply(x), 2)).fit(FEED, FEED)


def test_what_would_end_the_process_is_refused_before_it_is_tried():
    def lower(batch, ul_model, ll_model):
        return f(batch, ul_model, ll_model) + jt.cumsum(ll_model.head.bias, 0).sum()

    with pytest.raises(SecondOrderError, match=r"jt\.numpy_code.*ends the process"):
        make(nn.Pool(2, 2, op="mean"), lower=lower).fit(FEED, FEED)


def test_nothing_is_refused_where_no_second_derivative_is_taken_or_the_check_is_off():
    make(nn.Pool(2, 2, op="maximum"), na_op=["FD"]).fit(FEED, FEED, max_steps=1)
    make(nn.Pool(2, 2, op="maximum"), fo_op="MESO").fit(FEED, FEED, max_steps=1)
    make(nn.Pool(2, 2, op="maximum")).fit(FEED, FEED, max_steps=1, check_second_order=False)
    with pytest.raises(SecondOrderError, match="PGDO needs second"):
        make(nn.Pool(2, 2), fo_op="PGDO", solver_config={"PGDO": {"penalty": "gradient"}}).fit(FEED, FEED)


@pytest.mark.parametrize("activation", [jt.tanh, nn.relu], ids=["tanh", "relu"])
@pytest.mark.parametrize(
    "pool",
    [jboat_nn.MaxPool2d(2), nn.Pool(2, 2, op="mean"), lambda x: nn.avg_pool2d(Reversed.apply(x), 2)],
    ids=["jboat", "mean", "function"],
)
def test_right_ones_pass(pool, activation):
    make(pool, activation=activation).fit(FEED, FEED, max_steps=1)


def test_the_pull_of_implicit_maml_towards_the_start_is_right():
    jt.set_global_seed(0)
    ll_model, ul_model = Network(jboat_nn.MaxPool2d(2), jt.tanh), Network(jboat_nn.MaxPool2d(2), jt.tanh)
    trainer = BilevelTrainer(
        ll_model,
        ul_model,
        F,
        F,
        ll_optimizer=jt.optim.SGD(ll_model.parameters(), 0.1),
        ul_optimizer=jt.optim.SGD(ul_model.parameters(), 0.1),
        na_op=["IAD", "CG"],
        lower_iters=2,
    )
    trainer.fit(FEED, FEED, max_steps=1)
    assert trainer.state.step == 1


def test_a_pool_that_no_variable_passes_through_is_harmless():
    def lower(batch, ul_model, ll_model):
        seen = nn.max_pool2d(batch["data"], 2, 2)
        return f(batch, ul_model, ll_model) * (1.0 + 0.0 * seen.sum())

    make(nn.Pool(2, 2, op="mean"), lower=lower).fit(FEED, FEED, max_steps=1)


def test_the_upper_objective_counts_where_gda_mixes_it_in():
    def upper(batch, ul_model, ll_model):
        return (Square.apply(ll_model.head.weight)).sum()

    trainer = make(nn.Pool(2, 2, op="mean"), gm_op=["GDA", "NGD"])
    trainer.problem.ul_objective = upper
    with pytest.raises(SecondOrderError, match=r"head\.weight.*Square"):
        trainer.fit(FEED, FEED)


def test_it_costs_less_than_a_second_and_dropout_does_not_confuse_it():
    def lower(batch, ul_model, ll_model):
        logits = ll_model(nn.dropout(batch["data"], 0.3, is_train=True))
        return nn.cross_entropy_loss(Reversed.apply(logits), batch["target"]) * ul_model().exp().sum()

    fast = make(nn.Pool(2, 2, op="mean"), lower=lower)
    fast.fit(FEED, FEED, max_steps=1)
    begun = time.perf_counter()
    make(nn.Pool(2, 2, op="mean"), lower=lower).fit(FEED, FEED, max_steps=1)
    assert time.perf_counter() - begun < 1.0


def stopped(batch, ul_model, ll_model):
    weight = ll_model.head.weight
    return f(batch, ul_model, ll_model) + (weight * weight * weight.detach()).sum()


def test_a_stopped_gradient_is_refused_without_any_hand_written_operation():
    trainer = make(nn.Pool(2, 2, op="mean"), lower=stopped)
    with pytest.raises(SecondOrderError, match=r"head\.weight by .*Suspects: what stops .*through head \(Linear\)"):
        trainer.fit(FEED, FEED)


@pytest.mark.parametrize("suspicious", [False, True])
def test_disagreements_of_known_functions(suspicious):
    def wrong(value):
        return second_order.disagreements(value, y, suspicious=suspicious)

    y = [jt.array([1.0, -2.0, 0.5]), jt.array([0.3, 0.4, 0.5])]
    assert wrong(lambda v: (v[0] * v[0] * v[0]).sum() + v[1].sum()) == {}
    assert wrong(lambda v: (v[0] * v[0] * v[1]).sum() * np.nan) == {}
    hidden = wrong(lambda v: (v[0].detach() * v[0] * v[0]).sum() + (v[1] * v[1]).sum())
    assert list(hidden) == [0]
    assert hidden[0] == pytest.approx(0.5, abs=0.02)  # 2 y v is found, d(y^2)/dy v = 2 y v is hidden: 2 of 4


@pytest.mark.parametrize("samples", [10, 200, 5000])
def test_kinks_are_not_taken_for_wrong_second_derivatives(samples):
    rng = np.random.default_rng(1)
    x = jt.array(rng.normal(size=(samples, 5)).astype("float32"))
    side = jt.array(rng.choice([-1.0, 1.0], samples).astype("float32"))
    y = [jt.array([0.3, -0.2, 0.1, 0.4, -0.1]), jt.array([0.1])]

    def hinge(v):
        return nn.relu(1.0 - side * ((x * v[0]).sum(1) + v[1])).mean()

    def with_stopped_term(v):
        return hinge(v) + 3.0 * (v[0].detach() * v[0] * v[0]).sum()

    assert second_order.disagreements(hinge, y, suspicious=False) == {}
    among_many_kinks = samples == 5000
    expected = [] if among_many_kinks else [0]
    assert list(second_order.disagreements(with_stopped_term, y, suspicious=False)) == expected


def test_jittors_own_are_put_back():
    before = nn.Pool.execute, jt.Function.__call__, jt.code, jt.numpy_code
    with pytest.raises(LookupError), second_order.watched(nn.Linear(1, 1), second_order.HandWritten()):
        raise LookupError
    assert before == (nn.Pool.execute, jt.Function.__call__, jt.code, jt.numpy_code)
