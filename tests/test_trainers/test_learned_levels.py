"""What functions of the upper model give, levels of projections and the lower optimizer's numbers, is looked at."""

import logging

from jboat import projections
import jittor as jt
import numpy as np
from problems import DIM_Y, Quadratic
import pytest
from small_trainers import make

SAID = {
    "soft_threshold": "threshold must be at least 0, got -0.5",
    "l2_ball": "radius must be above 0, got -0.5",
    "simplex": "total must be above 0 and finite, got -0.5",
    "box": "low must be at most high, got 0.25 and -0.5",
}
PROJECTIONS = {
    "soft_threshold": lambda model: projections.soft_threshold(lambda: model.level),
    "l2_ball": lambda model: projections.l2_ball(lambda: model.level),
    "simplex": lambda model: projections.simplex(lambda: model.level),
    "box": lambda model: projections.box(0.25, lambda: model.level),
}


class Bounded(jt.Module):
    """x, a level beside it, and what the lower optimizer may be told."""

    def __init__(self, level):
        self.value = jt.array(Quadratic().x0.astype("float32"))
        self.level = jt.array([level]).float32()

    def execute(self):
        return self.value


def trainer_of(make_projection, level, argument="ll_projection", **arguments):
    ul_model = Bounded(level)
    return make(ul_model=ul_model, **{argument: make_projection(ul_model)}, **arguments)


@pytest.mark.parametrize("name", SAID)
def test_a_level_out_of_range_is_named_with_argument_and_step(name):
    trainer = trainer_of(PROJECTIONS[name], -0.5)
    before = [v.numpy() for v in (*trainer.ll_var, *trainer.ul_var)]
    said = rf"^ll_projection \({name}\): {SAID[name]}, at outer step 1\. A function such as exp"
    with pytest.raises(ValueError, match=said):
        trainer.fit({}, {}, max_steps=1)
    with pytest.raises(ValueError, match=said):
        trainer.hypergradient({}, {})
    for value, variable in zip(before, (*trainer.ll_var, *trainer.ul_var), strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


@pytest.mark.parametrize(
    ("make_projection", "level", "error", "said"),
    [
        (lambda m: projections.soft_threshold(lambda: m.level / 0.0), 0.0, ArithmeticError, "threshold .*, got nan"),
        (lambda m: projections.l2_ball(lambda: m.level / 0.0), 0.0, ArithmeticError, "radius .*, got nan"),
        (lambda m: projections.simplex(lambda: m.level / 0.0), 1.0, ArithmeticError, "total .*, got inf"),
        (lambda m: projections.box(lambda: m.level / 0.0), 0.0, ArithmeticError, "low must be a number, got nan"),
        (lambda m: projections.l2_ball(lambda: float(m.level.item())), -1.0, ValueError, "radius .*, got -1"),
        (
            lambda m: projections.soft_threshold(lambda: m.level * jt.array([1.0] * (DIM_Y - 1) + [-1.0])),
            0.5,
            ValueError,
            "threshold must be at least 0, got -0.5",
        ),
        (
            lambda m: lambda values: projections.box(lambda: m.level + 1.0, lambda: m.level)(values),
            0.5,
            ValueError,
            "low must be at most high, got 1.5 and 0.5",
        ),
    ],
    ids=["nan", "nan radius", "inf total", "nan bound", "number", "one of several", "inside a function"],
)
def test_whatever_a_function_gives_is_held_to_its_range(make_projection, level, error, said):
    with pytest.raises(error, match=rf"^ll_projection \(\w+\): {said}.*, at outer step 1"):
        trainer_of(make_projection, level).fit({}, {}, max_steps=1)


@pytest.mark.parametrize("methods", [{"na_op": ["RAD"]}, {"na_op": ["FD"]}, {"fo_op": "PGDO"}], ids=str)
def test_a_level_that_leaves_its_range_stops_the_run_at_its_step(methods):
    config = {"FD": {"through_optimizer": True}} if "FD" in methods.get("na_op", ()) else None
    trainer = trainer_of(PROJECTIONS["soft_threshold"], 0.04, solver_config=config, ul_lr=0.0, **methods)
    trainer.fit({}, {}, max_steps=2)
    trainer.ul_model.level.assign(jt.array([-0.01]))
    with pytest.raises(ValueError, match=r"got -0.01, at outer step 3"):
        trainer.fit({}, {}, max_steps=9)
    assert trainer.state.step == 2


def test_a_level_of_the_upper_projection_is_named_too():
    trainer = trainer_of(lambda m: projections.l2_ball(lambda: m.level - 3.0), 0.5, "ul_projection")
    with pytest.raises(ValueError, match=r"^ul_projection \(l2_ball\): radius must be above 0, got -2.* outer step 1"):
        trainer.fit({}, {}, max_steps=1)


@pytest.mark.parametrize(
    ("make_projection", "shape", "said"),
    [
        (projections.simplex, 3, r"simplex: total must be one number, got the shape \[3,?\]"),
        (projections.l2_ball, 3, r"l2_ball: radius must be one number, got the shape \[3,?\]"),
        (
            projections.soft_threshold,
            4,
            r"soft_threshold: threshold must be one number, or numbers that fit the shape \[",
        ),
        (
            lambda level: projections.box(level, 5.0),
            4,
            r"box: low must be one number, or numbers that fit the shape \[",
        ),
    ],
)
def test_levels_of_a_shape_for_none_of_the_variables_are_refused(make_projection, shape, said):
    projection = make_projection(lambda: jt.ones(shape))
    with pytest.raises(ValueError, match=said):
        projections.applied(projection, [jt.zeros(3)], "ll_projection")
    assert projections.applied(make_projection(lambda: jt.ones(1)), [jt.zeros(3)], "ll_projection")[0].shape == [3]


def test_a_total_must_be_finite():
    with pytest.raises(ValueError, match="simplex: total must be above 0 and finite, got inf"):
        projections.simplex(float("inf"))


IDLE = {
    "of no model": lambda model: jt.array([0.1]),
    "a copy": lambda model: model.level.detach(),
    "a bound": lambda model: jt.maximum(model.level - 5.0, jt.array([0.1])),
}


@pytest.mark.parametrize("name", IDLE)
def test_numbers_from_which_nothing_is_learned_are_named_once(name, caplog):
    functions = {"lr": IDLE[name], "weight_decay": lambda model: model.level * model.level}
    trainer = make(ul_model=Bounded(0.1), ll_hyperparameters=functions)
    with caplog.at_level(logging.WARNING, "jboat"):
        trainer.hypergradient({}, {})
        trainer.fit({}, {}, max_steps=2)
        trainer.fit({}, {}, max_steps=3)
    [said] = [record.getMessage() for record in caplog.records]
    assert said.startswith("ll_hyperparameters: the derivative of 'lr' by every variable of the upper level is exactly")


def test_numbers_of_variables_that_the_upper_optimizer_holds_not_are_named(caplog):
    ul_model = Bounded(0.1)
    trainer = make(
        ul_model=ul_model,
        ul_var=[ul_model.value],
        ul_optimizer=jt.optim.SGD([ul_model.value], 0.1),
        ll_hyperparameters={"lr": lambda model: model.level, "weight_decay": lambda model: model.level},
    )
    with caplog.at_level(logging.WARNING, "jboat"):
        trainer.fit({}, {}, max_steps=1)
    assert "the derivative of 'lr' and 'weight_decay' by every variable" in caplog.text
