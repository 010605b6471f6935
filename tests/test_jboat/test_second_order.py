"""Operations whose second derivative is wrong are found before the first step, and right ones are let pass."""

import logging
import time

from jboat import BilevelTrainer, SecondOrderError, second_order
from jboat import nn as jboat_nn
import jittor as jt
from jittor import nn
import numpy as np
from problems import Point
import pytest
import small_trainers

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
    levels = {"ll_model": Network(pool, activation), "ul_model": Point([0.1]), "ll_objective": lower, "ul_objective": F}
    return small_trainers.make(**levels, **kwargs)


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


def saving(x):
    return nn.avg_pool2d(Square.apply(x), 2)


def coded(x):
    """x^2 by ``jt.code``, whose gradient is written by hand, so that its second derivative is zero."""
    gradient = "for (int i=0; i<out->num; i++) out_p[i] = 2.0f * in0_p[i] * dout_p[i];"
    source = "for (int i=0; i<out->num; i++) out_p[i] = in0_p[i] * in0_p[i];"
    return nn.avg_pool2d(jt.code(x.shape, x.dtype, [x], cpu_src=source, cpu_grad_src=[gradient]), 2)


CHAINS = [{"na_op": ["RAD"]}, {"na_op": ["CG"]}, {"na_op": ["FD"], "gm_op": ["DI", "NGD"]}]


@pytest.mark.parametrize("activation", [jt.tanh, nn.relu], ids=["tanh", "relu"])
@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_a_function_that_saves_its_input_is_refused_and_named(chain, activation):
    trainer = make(saving, activation=activation, **chain)
    before = trainer.values()
    with pytest.raises(SecondOrderError, match=r"check_second_order: .*differs.* Suspects.*Square \(a jt\.Function\)"):
        trainer.fit(FEED, FEED)
    np.testing.assert_equal(trainer.values(), before)
    assert trainer.state.step == 0


def test_code_of_ones_own_is_refused():
    with pytest.raises(SecondOrderError, match=r"Suspects.*jt\.code"):
        make(coded).fit(FEED, FEED)


class Halving(nn.Pool):
    def __init__(self):
        super().__init__(2, 2, op="maximum")


def plain_loop(pool, activation, x, seen):
    """F after two steps of Jittor's own SGD on f, outside of the trainer and of everything that it replaces."""
    jt.set_global_seed(0)
    ll_model, ul_model = Network(pool, activation), Point([x])
    optimizer = jt.optim.SGD(ll_model.parameters(), 0.1)
    seen.append(ll_model)
    for _ in range(2):
        optimizer.step(f({k: jt.array(v) for k, v in FEED.items()}, ul_model, ll_model))
    return F({k: jt.array(v) for k, v in FEED.items()}, ul_model, ll_model).item()


@pytest.mark.parametrize("activation", [jt.tanh, nn.relu], ids=["tanh", "relu"])
@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2, 2),
        Halving(),
        lambda x: nn.max_pool2d(x, 2, 2),
        lambda x: nn.max_pool2d(x, 2, 2, 0, None, True)[0],
    ],
    ids=["layer", "subclass", "function", "with indices"],
)
def test_jittors_max_pooling_is_right(pool, activation, caplog):
    trainer = make(pool, activation=activation)
    got = trainer.hypergradient(FEED, FEED).gradients[0].numpy().item()
    own, seen, step = nn.MaxPool2d(2, 2), [], 0.02
    difference = (plain_loop(own, activation, 0.1 + step, seen) - plain_loop(own, activation, 0.1 - step, seen)) / (
        2 * step
    )
    assert got == pytest.approx(difference, rel=2e-3)
    assert caplog.text == ""


@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_jittors_max_pooling_trains_with_every_chain(chain):
    trainer = make(nn.MaxPool2d(2, 2), **chain)
    trainer.fit(FEED, FEED, max_steps=1)
    assert trainer.state.step == 1


def test_what_would_end_the_process_is_refused_before_it_is_tried():
    def lower(batch, ul_model, ll_model):
        return f(batch, ul_model, ll_model) + jt.cumsum(ll_model.head.bias, 0).sum()

    with pytest.raises(SecondOrderError, match=r"jt\.numpy_code.*ends the process"):
        make(nn.Pool(2, 2, op="mean"), lower=lower).fit(FEED, FEED)


def test_nothing_is_refused_where_no_second_derivative_is_taken_or_the_check_is_off():
    make(saving, na_op=["FD"]).fit(FEED, FEED, max_steps=1)
    make(saving, fo_op="MESO").fit(FEED, FEED, max_steps=1)
    make(saving).fit(FEED, FEED, max_steps=1, check_second_order=False)
    make(saving).hypergradient(FEED, FEED, check_second_order=False)
    with pytest.raises(SecondOrderError, match="PGDO needs second"):
        make(saving, fo_op="PGDO", solver_config={"PGDO": {"penalty": "gradient"}}).fit(FEED, FEED)


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


def test_an_operation_that_no_variable_passes_through_is_harmless():
    def lower(batch, ul_model, ll_model):
        seen = Square.apply(batch["data"])
        return f(batch, ul_model, ll_model) * (1.0 + 0.0 * seen.sum())

    make(nn.Pool(2, 2, op="mean"), lower=lower).fit(FEED, FEED, max_steps=1)


def test_the_upper_objective_counts_where_gda_mixes_it_in():
    def upper(batch, ul_model, ll_model):
        return (Square.apply(ll_model.head.weight)).sum()

    trainer = make(nn.Pool(2, 2, op="mean"), gm_op=["GDA", "NGD"])
    trainer.current_run.problem.ul_objective = upper
    with pytest.raises(SecondOrderError, match=r"head\.weight.*Square"):
        trainer.fit(FEED, FEED)


@pytest.mark.alone
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
        found = second_order.examined(value, y, suspicious=suspicious)
        assert found.undecided == []
        return found.wrong

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

    assert second_order.examined(hinge, y, suspicious=False).wrong == {}
    among_many_kinks = samples == 5000
    found = second_order.examined(with_stopped_term, y, suspicious=False)
    assert list(found.wrong) == ([] if among_many_kinks else [0])
    assert (0 in found.undecided) == among_many_kinks


def test_jittors_own_are_put_back():
    before = nn.Pool.execute, jt.Function.__call__, jt.code, jt.numpy_code
    with pytest.raises(LookupError), second_order.watched(second_order.HandWritten()):
        raise LookupError
    assert before == (nn.Pool.execute, jt.Function.__call__, jt.code, jt.numpy_code)


def rough(batch, ul_model, ll_model):
    """Its gradient by the bias is another one 1e-6 further on, so that no difference decides anything."""
    return f(batch, ul_model, ll_model) + 1e-7 * jt.sin(1e6 * ll_model.head.bias).sum()


def rough_and_hand_written(batch, ul_model, ll_model):
    return Reversed.apply(rough(batch, ul_model, ll_model))


def test_what_cannot_be_decided_is_said_once(caplog):
    trainer = make(nn.Pool(2, 2, op="mean"), lower=rough_and_hand_written)
    trainer.hypergradient(FEED, FEED)
    trainer.hypergradient(FEED, FEED)
    trainer.fit(FEED, FEED, max_steps=1)
    said = [r.getMessage() for r in caplog.records if "check_second_order" in r.getMessage()]
    assert len(said) == 1
    assert "in head.bias could not be decided" in said[0]
    assert "Reversed (a jt.Function)" in said[0]


def test_what_cannot_be_decided_without_hand_written_operations_is_no_warning(caplog):
    caplog.set_level(logging.INFO, "jboat")
    make(nn.Pool(2, 2, op="mean"), lower=rough).fit(FEED, FEED, max_steps=1)
    (said,) = [r for r in caplog.records if "check_second_order" in r.getMessage()]
    assert said.levelno == logging.INFO
    assert "No operation with a hand-written gradient" in said.getMessage()


def test_hypergradient_refuses_too():
    trainer = make(saving)
    for _ in range(2):
        with pytest.raises(SecondOrderError, match="RAD needs second derivatives"):
            trainer.hypergradient(FEED, FEED)


def test_objectives_are_looked_at_once():
    calls = []

    def lower(batch, ul_model, ll_model):
        calls.append(1)
        return f(batch, ul_model, ll_model)

    def count(call):
        calls.clear()
        call()
        return len(calls)

    trainer, unchecked = (make(nn.Pool(2, 2, op="mean"), lower=lower) for _ in range(2))
    alone = count(lambda: unchecked.hypergradient(FEED, FEED, check_second_order=False))
    assert alone + 4 <= count(lambda: trainer.hypergradient(FEED, FEED)) <= alone + 10
    assert count(lambda: trainer.hypergradient(FEED, FEED)) == alone
    assert count(lambda: trainer.fit(FEED, FEED, max_steps=1)) == count(
        lambda: unchecked.fit(FEED, FEED, max_steps=1, check_second_order=False)
    )
    trainer.current_run.problem.ll_objective = lambda *args: lower(*args)
    assert count(lambda: trainer.hypergradient(FEED, FEED)) > alone
