"""An objective that draws by numpy or Python is told of, once, wherever parts of a batch are run again."""

import logging
import random

from jboat import numbers_drawn_anew
from jboat.numbers_drawn_anew import DrawnAnew
import jittor as jt
import numpy as np
from problems import Point, Quadratic
import pytest
from small_trainers import make

RNG = np.random.default_rng(0)
LOWER, UPPER = ({"data": RNG.normal(size=(10, 4)).astype("float32"), "target": np.zeros(10, "float32")} for _ in "lu")
X0, Y0 = (0.5 * RNG.normal(size=4) for _ in range(2))
DRAWS = {"numpy": np.random.rand, "python": random.random, "jittor": lambda: jt.rand(1)}
RUN_AGAIN = {
    "RAD": {},
    "CG": {"na_op": ["CG"], "solver_config": {"CG": {"k": 2}}},
    "PGDO": {"fo_op": "PGDO", "solver_config": {"PGDO": {"penalty": "gradient"}}},
    "SOBA": {"sl_op": "SOBA"},
}


def noisy(draw):
    def f(batch, ul_model, ll_model):
        y, x = ll_model(), ul_model()
        out = (batch["data"] * (y + x).reshape(1, -1)).sum(1).tanh()
        return ((out - batch["target"]) ** 2).mean() + draw() * (y * y).sum()

    return f


def F(batch, ul_model, ll_model):
    out = (batch["data"] * ll_model().reshape(1, -1)).sum(1)
    return ((out - batch["target"]) ** 2).mean() + 0.05 * (ul_model() ** 2).sum()


def told(caplog, draw, **arguments):
    own = {"ll_objective": noisy(draw), "ul_objective": F, "ll_model": Point(Y0), "ul_model": Point(X0)}
    trainer = make(seed=1, lower_micro_batches=3, **own, **arguments)
    with caplog.at_level(logging.WARNING, "jboat"):
        trainer.fit(LOWER, UPPER, max_steps=2, check_second_order=False)
    return caplog.text.count("lower_micro_batches: f draws random numbers of numpy's or Python's")


@pytest.mark.parametrize("method", RUN_AGAIN)
def test_numpy_in_parts_that_second_derivatives_run_again(method, caplog):
    assert told(caplog, np.random.rand, **RUN_AGAIN[method]) == 1
    assert "not a mean over samples" not in caplog.text  # of which noise tells nothing


@pytest.mark.parametrize("draw", ["python", "jittor"])
def test_other_generators(draw, caplog):
    assert told(caplog, DRAWS[draw]) == (draw == "python")


def test_parts_that_are_run_once_may_draw_what_they_like(caplog):
    assert told(caplog, np.random.rand, fo_op="VFO") == 0


PAIRS = [np.random.standard_normal, lambda: random.gauss(0.0, 1.0)]
FULL_ROUND = lambda: np.random.rand(312)  # noqa: E731  (after which the generator stands at the same place)


@pytest.mark.parametrize("draw", [*DRAWS.values(), *PAIRS, FULL_ROUND])
def test_what_is_drawn_is_seen(draw):
    """Also the second number of a pair, which was drawn before."""
    drawn = DrawnAnew()
    draw()
    with drawn.looking():
        draw()
    assert drawn.found == (draw is not DRAWS["jittor"])


def test_a_lower_loop_that_is_taken_again_looks_once(monkeypatch):
    looked, generators = [], numbers_drawn_anew._generators
    monkeypatch.setattr(numbers_drawn_anew, "_generators", lambda: looked.append(1) or generators())
    trainer = make(problem=Quadratic(), lower_iters=3, solver_config={"RAD": {"remat_every": 1}})
    trainer.fit({}, {}, max_steps=3, check_second_order=False)
    assert len(looked) == 2
