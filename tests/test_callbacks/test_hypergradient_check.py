"""HypergradientCheck: three outcomes, what it looks at, methods without a lower loop, and what it refuses."""

from functools import partial
import logging

from jboat import register_operator
from jboat.callbacks import GradientClipping, HypergradientCheck, LambdaCallback
from jboat.callbacks.hypergradient_check import compared
from jboat.fo_ol import FirstOrder, FirstOrderStep
import numpy as np
from problems import Point, Quadratic
import pytest
import small_trainers

make = partial(small_trainers.make, lower_iters=3)


def checked(caplog, trainer):
    with caplog.at_level(logging.INFO, logger="jboat"):
        history = trainer.fit({}, {}, max_steps=1)
    (line,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("HypergradientCheck")]
    return next(iter(history)), line


def test_a_right_gradient(caplog):
    row, line = checked(caplog, make(HypergradientCheck(1)))
    assert row["hypergradient_verdict"] == 1.0
    assert row["hypergradient_difference_error"] < 0.01
    assert "outer step 1: right" in line


@pytest.mark.parametrize("wrong", [lambda g: 0.5 * g, lambda g: -g, lambda g: g + 1.0])
def test_a_wrong_gradient(caplog, wrong):
    def spoil(trainer, state, result):
        result.gradients = [wrong(g) for g in result.gradients]

    row, line = checked(caplog, make(LambdaCallback(on_before_upper_step=spoil), HypergradientCheck(1)))
    assert row["hypergradient_verdict"] == -1.0
    assert "wrong (error" in line


class Wavy:
    """y ends at x after many steps, and F is a fast wave of it: its difference bends within the radius."""

    def __init__(self, frequency):
        self.frequency = frequency

    def models(self):
        return Point([0.3]), Point([0.0])

    def f(self, batch, ul_model, ll_model):
        return 0.5 * ((ll_model() - ul_model()) ** 2).sum()

    def F(self, batch, ul_model, ll_model):
        return (self.frequency * ll_model()).sin().sum()


@pytest.mark.parametrize(("radius", "verdict"), [(0.02, 0.0), (1e-4, 1.0)])
def test_too_large_a_radius_is_inconclusive_and_a_small_one_is_not(caplog, radius, verdict):
    row, line = checked(caplog, make(HypergradientCheck(1, radius=radius), problem=Wavy(120.0), lower_iters=100))
    assert row["hypergradient_verdict"] == verdict
    assert ("inconclusive" in line) == (verdict == 0.0)
    if verdict == 0.0:
        y = 0.3 * (1 - 0.9**100)  # y_K, and the true slope is that of the wave there
        differences = [(np.sin(120 * (y + h)) - np.sin(120 * (y - h))) / (2 * h) for h in (radius, radius / 4)]
        off = abs(differences[0] - differences[1]) / abs(differences[0])
        assert row["hypergradient_difference_error"] == pytest.approx(off, rel=0.05)


class Tiny(Quadratic):
    """F is large and hardly depends on x, so that its difference is rounding."""

    def F(self, batch, ul_model, ll_model):
        return 1e-7 * super().F(batch, ul_model, ll_model) + 100.0


def test_a_difference_that_is_rounding_is_inconclusive(caplog):
    row, line = checked(caplog, make(HypergradientCheck(1), problem=Tiny()))
    assert row["hypergradient_verdict"] == 0.0
    assert "take another radius" in line


def test_the_outcomes():
    slopes = np.array([1.0, 2.0])

    def verdict(wide, narrow, rounding=0.0):
        return compared(slopes, np.array(wide), np.array(narrow), rounding, 0.05).verdict

    assert verdict([1.0, 2.0], [1.0, 2.0]) == 1
    assert verdict([1.01, 2.0], [1.0, 2.0]) == 1
    assert verdict([1.0, 2.0], [1.5, 2.0]) == 0  # near one of them alone
    assert verdict([2.0, 4.0], [2.0, 4.0]) == -1
    assert verdict([2.0, 4.0], [1.5, 3.0]) == 0
    assert verdict([1.0, 2.0], [1.0, 2.0], rounding=1.0) == 0
    assert verdict([np.nan, 2.0], [1.0, 2.0]) == 0


@pytest.mark.parametrize("order", [0, 1])
def test_it_sees_gradients_before_they_are_clipped(caplog, order):
    callbacks = [GradientClipping(max_norm=1e-3), HypergradientCheck(1)]
    trainer = make(*(callbacks if order == 0 else reversed(callbacks)))
    before = trainer.ul_var[0].numpy().copy()
    row, _ = checked(caplog, trainer)
    assert row["hypergradient_verdict"] == 1.0
    assert row["hypergradient_error"] < 2e-3
    assert np.linalg.norm(trainer.ul_var[0].numpy() - before) == pytest.approx(0.1 * 1e-3, rel=1e-3)  # clipped it was


WITHOUT_A_LOOP = [
    {"gm_op": ["DM"]},
    {"gm_op": ["GDA", "DM"], "na_op": ["CG"]},
    *({"fo_op": name} for name in ("VFO", "MESO", "PGDO", "GAFFO", "ALTO")),
    {"fo_op": "VSO", "ll_lr": 0.002},
    {"fo_op": "VSO", "solver_config": {"VSO": {"boundary": 20.0}}},  # within the parabola
    {"fo_op": "PGDO", "solver_config": {"PGDO": {"penalty": "gradient"}}},
    {"fo_op": "VFO", "solver_config": {"VFO": {"u1": 50.0}}},
    {"fo_op": "GAFFO", "accumulate": 2},
]


def name_of(kwargs):
    return kwargs.get("fo_op", "DM")


@pytest.mark.parametrize("kwargs", WITHOUT_A_LOOP, ids=str)
def test_methods_without_a_lower_loop_are_compared_with_their_own_value(kwargs):
    history = make(HypergradientCheck(1), **kwargs).fit({}, {}, max_steps=3)
    assert history["hypergradient_verdict"] == [1.0] * 3
    assert max(history["hypergradient_error"]) < 2e-3


@pytest.mark.parametrize("kwargs", WITHOUT_A_LOOP, ids=str)
def test_a_check_without_a_lower_loop_changes_nothing(kwargs):
    checked_run, plain = make(HypergradientCheck(1), **kwargs), make(**kwargs)
    for trainer in (checked_run, plain):
        trainer.fit({}, {}, max_steps=3)
    np.testing.assert_equal(checked_run.values(), plain.values())


@pytest.mark.parametrize("kwargs", WITHOUT_A_LOOP, ids=str)
def test_a_wrong_direction_without_a_lower_loop(kwargs):
    def spoil(trainer, state, result):
        result.gradients = [g + 0.2 * abs(g).max() for g in result.gradients]

    history = make(LambdaCallback(on_before_upper_step=spoil), HypergradientCheck(1), **kwargs).fit({}, {}, max_steps=2)
    assert history["hypergradient_verdict"] == [-1.0] * 2


@pytest.mark.parametrize("kwargs", WITHOUT_A_LOOP[:3], ids=str)
def test_without_a_lower_loop_there_is_no_unrolled_value(kwargs):
    trainer = make(**kwargs)
    with pytest.raises(ValueError, match=f"no F\\(x, y_K\\(x\\)\\) with {name_of(kwargs)}"):
        trainer.current_run.unrolled_value([v.numpy() for v in trainer.ul_var])


def test_a_method_that_tells_no_value_is_refused_at_its_first_step(own_registry):
    @register_operator("fo")
    class Silent(FirstOrder):
        """The direct gradient, y standing still."""

        def optimize(self, ll_feed_dict, ul_feed_dict, current_iter, auxiliary=None):
            y = self.start()
            upper = self.gradients(lambda v: self.upper_value(v, ul_feed_dict), y, by_y=False)
            loss = float(upper.loss.item())
            return FirstOrderStep(upper.by_x, y, self.rule.load(), loss, loss)

    trainer = make(HypergradientCheck(), fo_op="Silent")
    before = trainer.values()
    with pytest.raises(ValueError, match=r"HypergradientCheck cannot check Silent: .*FirstOrderStep\.value"):
        trainer.fit({}, {}, max_steps=1)
    assert trainer.state.step == 0
    np.testing.assert_equal(trainer.values(), before)


@pytest.mark.parametrize("arguments", [{"radius": 0.0}, {"tolerance": 0.0}, {"tolerance": float("nan")}])
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match="radius and tolerance must be positive"):
        HypergradientCheck(**arguments)
