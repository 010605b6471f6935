"""Jittor's modules and classes hold the same objects before, while and after a trainer runs, in several threads too."""

import inspect
import threading

from jboat import BilevelTrainer
from jboat.backend.replacements import dispatch
from jboat.callbacks import LambdaCallback
from jboat.trainers import evaluation, target_shapes
import jittor as jt
from jittor import mean as mean_from_before
import numpy as np
from problems import Classifier
import pytest
from small_trainers import make

MODULES = (jt, jt.nn, jt.optim, jt.misc, jt.init, jt.pool, jt.contrib, jt.dataset)
RIGHT = np.repeat(np.float32([1.0, 0.0]), [470, 30])  # Jittor's mean of these is 0.939995


def held():
    """All that Jittor's modules and their classes hold, by identity, but for numbers and strings."""
    classes = {v for module in MODULES for v in vars(module).values() if inspect.isclass(v)}
    owners = [*MODULES, *(c for c in classes if c.__module__.partition(".")[0].startswith("jittor"))]
    plain = (bool, int, float, str, type(None))
    return {(o, n): v for o in owners for n, v in list(vars(o).items()) if not isinstance(v, plain)}


def test_nothing_is_put_in_the_place_of_what_jittor_has():
    before, changed = held(), {}

    def look(where):
        now = held()
        changed[where] = {place for place in before.keys() | now.keys() if before.get(place) is not now.get(place)}

    class Watched(BilevelTrainer):
        def evaluation_step(self, batch):
            look("evaluation")
            return super().evaluation_step(batch)

    problem = Classifier()

    def ll_objective(*arguments):
        look("first batch" if not trainer.state.step and not started else "objective")
        return problem.f(*arguments)

    started = []
    watch = LambdaCallback(on_lower_loop_start=lambda *_: started.append(1), on_step_end=lambda *_: look("callback"))
    trainer = make(watch, problem=problem, trainer_class=Watched, ll_objective=ll_objective)
    lower, upper = problem.batches()
    trainer.fit(lower, upper, max_steps=2, val_loader=upper)
    look("after")
    passing = {place for place, found in dispatch.installed().items() if not found.lasting}
    assert changed.pop("first batch") <= passing
    assert changed == {where: set() for where in ("objective", "callback", "evaluation", "after")}


def evaluating():
    return evaluation.evaluation_mode([])


def watching():
    return target_shapes.watched([])


def watched_shapes(found):
    flat, column = jt.array(RIGHT[:3]), jt.array(RIGHT[:3]).reshape(3, 1)
    assert (flat - column).shape == (3, 3)
    return len(found)


@pytest.mark.parametrize(("block", "place"), [(evaluating, (jt.Var, "mean")), (watching, (jt.Var, "__sub__"))])
def test_blocks_that_overlap_in_two_threads(block, place):
    before, ended, go_on = getattr(*place), threading.Event(), threading.Event()

    def other():
        with block():
            ended.set()
            assert go_on.wait(timeout=60)

    with block():
        thread = threading.Thread(target=other)
        thread.start()
        assert ended.wait(timeout=60)
    inside = dispatch.current(*place)
    go_on.set()
    thread.join(timeout=60)
    assert inside is dispatch.installed()[place].original  # the other thread's block is none of this thread's
    assert getattr(*place) is before


@pytest.mark.parametrize(("block", "place"), [(evaluating, (jt, "mean")), (watching, (jt.Var, "__mul__"))])
def test_a_users_function_from_inside_such_a_block_stays(block, place):
    def mine(*args):
        raise AssertionError("never called")

    before = getattr(*place)
    try:
        with block():
            setattr(*place, mine)
        assert getattr(*place) is mine
        with block():
            assert getattr(*place) is mine
        assert getattr(*place) is mine
    finally:
        setattr(*place, before)


def test_means_of_an_evaluation_are_exact_however_they_are_asked_for():
    right = jt.array(RIGHT)
    with evaluating():
        means = [ask(right).item() for ask in (jt.mean, jt.Var.mean, mean_from_before, lambda x: x.mean())]
    np.testing.assert_array_equal(means, np.float32(0.94))
    assert right.mean().item() != np.float32(0.94)


def test_shapes_are_watched_in_blocks_alone():
    with watching() as outer:
        with watching() as inner:
            assert watched_shapes(inner) == 1
        assert watched_shapes(outer) == 1
    assert watched_shapes(outer) == 1


def test_an_evaluation_leaves_modules_as_they_were():
    problem = Classifier()
    trainer = make(problem=problem)
    modules = [*trainer.ll_model.modules(), *trainer.ul_model.modules()]
    modules[-1].is_train = False
    before = [dict(vars(m)) for m in modules]
    assert "is_train" not in before[0]
    trainer.evaluate(problem.batches()[1])
    assert [vars(m).keys() for m in modules] == [names.keys() for names in before]
    assert modules[-1].is_train is False
