"""Learning rates of 0 are rates like others."""

import math

from jboat.callbacks import DISchedule, LRSchedule, schedules
import jittor as jt
import numpy as np
from problems import Quadratic
import pytest
import small_trainers


def make(*callbacks, ul_params=list, ul_lr=0.1, **kwargs):
    def upper(params):
        return jt.optim.SGD(ul_params(params), ul_lr)

    return small_trainers.make(*callbacks, ul_optimizer=upper, **kwargs)


def test_a_cosine_to_zero_stops_x_and_not_the_run():
    trainer = make(LRSchedule(schedules.cosine(0.3, 0.0, steps=3)))
    history = trainer.fit({}, {}, max_steps=3)
    before = trainer.ul_var[0].numpy().copy()
    trainer.fit({}, {}, max_steps=2)
    np.testing.assert_array_equal(trainer.ul_var[0].numpy(), before)
    exact = [0.15 * (1 + math.cos(math.pi * k / 3)) for k in range(3)] + [0.0, 0.0]
    assert history["ul_lr"] == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("ul_lr", [0.0, 0.1])
@pytest.mark.parametrize("own", [{}, {"lr": 0.0}])
def test_a_warm_up_from_zero(ul_lr, own):
    groups = (lambda params: [{"params": params, **own}]) if own and ul_lr == 0.0 else list
    trainer = make(LRSchedule(schedules.linear(0.0, 0.2, steps=2)), ul_lr=ul_lr, ul_params=groups)
    start = trainer.ul_var[0].numpy().copy()
    trainer.fit({}, {}, max_steps=1)
    np.testing.assert_array_equal(trainer.ul_var[0].numpy(), start)
    history = trainer.fit({}, {}, max_steps=3)
    assert history["ul_lr"] == pytest.approx([0.0, 0.1, 0.2, 0.2])
    assert np.abs(trainer.ul_var[0].numpy() - start).max() > 1e-3


def test_a_ratio_to_zero_is_refused_by_name():
    trainer = make(LRSchedule(lambda step: 0.1), ul_lr=0.0, ul_params=lambda params: [{"params": params, "lr": 0.2}])
    with pytest.raises(ValueError, match=r"LRSchedule\(upper\) keeps .* group 0 has 0\.2 and the optimizer 0"):
        trainer.fit({}, {})


@pytest.mark.parametrize("rate", [-1e-3, math.nan, math.inf])
def test_what_is_no_rate_is_refused_with_its_step(rate):
    with pytest.raises(ValueError, match=r"LRSchedule\(lower\) at step 1: the rate must be a number of at least 0"):
        make(LRSchedule(lambda step: rate if step else 0.1, level="lower")).fit({}, {}, max_steps=3)


@pytest.mark.parametrize("method", [{"na_op": ["FD"]}, {"na_op": ["NS"]}, {"na_op": ["RAD"]}, {"gm_op": ["DM"]}])
def test_a_lower_rate_of_zero_leaves_y_and_the_direct_gradient(method):
    """K steps of rate 0 lead nowhere, so that the hypergradient is grad_x F."""
    problem = Quadratic()
    trainer = make(LRSchedule(lambda step: 0.0, level="lower"), **method)
    trainer.fit({}, {}, max_steps=1)
    np.testing.assert_array_equal(trainer.ll_var[0].numpy(), problem.y0.astype("float32"))
    if "gm_op" not in method:
        moved = problem.x0 - 0.1 * problem.upper_by_x(problem.y0, problem.x0)
        np.testing.assert_allclose(trainer.ul_var[0].numpy(), moved, rtol=1e-5, atol=1e-6)


def test_di_may_keep_its_initialisation():
    trainer = make(DISchedule(schedules.linear(0.1, 0.0, steps=1)), gm_op=["DI", "NGD"])
    trainer.fit({}, {}, max_steps=1)
    learned = trainer.initialization[0].numpy().copy()
    history = trainer.fit({}, {}, max_steps=2)
    np.testing.assert_array_equal(trainer.initialization[0].numpy(), learned)
    assert history["di_lr"] == pytest.approx([0.1, 0.0, 0.0])
