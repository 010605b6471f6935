"""``fit`` inside ``fit``, steps whose callbacks fail, objectives of any kind, and what is freed when a trainer goes."""

import dataclasses
import gc
import threading
import weakref

from jboat.callbacks import LambdaCallback, ModelCheckpoint
import numpy as np
from problems import Quadratic
import pytest
from small_trainers import make


def test_fit_inside_fit_is_refused_and_the_outer_one_may_go_on():
    refused = []

    def again(trainer, state):
        if state.step == 3:
            with pytest.raises(RuntimeError, match=r"fit\(\) was called while a fit\(\) of the same trainer is under"):
                trainer.fit({}, {}, max_steps=2)
            refused.append(state.step)

    trainer = make(LambdaCallback(on_step_end=again))
    trainer.fit({}, {}, max_steps=5)
    assert (refused, trainer.state.step) == ([3], 5)
    trainer.fit({}, {}, max_steps=1)
    assert trainer.state.step == 6


def test_fit_from_another_thread_is_refused_too():
    caught = []

    def go(trainer):
        try:
            trainer.fit({}, {}, max_steps=1)
        except RuntimeError as error:
            caught.append(str(error))

    def other_thread(trainer, state):
        thread = threading.Thread(target=go, args=(trainer,))
        thread.start()
        thread.join()

    trainer = make(LambdaCallback(on_fit_start=other_thread))
    trainer.fit({}, {}, max_steps=1)
    assert len(caught) == 1


def test_fit_may_be_called_after_one_that_failed():
    trainer = make()
    with pytest.raises(TypeError):
        trainer.fit([3], {})
    trainer.fit({}, {}, max_steps=1)
    assert trainer.state.step == 1


class FailedError(Exception):
    pass


def fail_at(step):
    def hook(trainer, state):
        state.metrics["seen"] = 1.0
        if state.step == step:
            raise FailedError

    return LambdaCallback("fail", on_step_end=hook)


def test_a_step_whose_callback_fails_has_its_row(tmp_path):
    whole = make()
    whole.fit({}, {}, max_steps=3)
    saver = ModelCheckpoint(tmp_path, every_n_steps=50, save_on_exception=True)
    trainer = make(fail_at(2), saver)
    with pytest.raises(FailedError):
        trainer.fit({}, {}, max_steps=3)
    assert trainer.history["step"] == [1, 2]
    assert trainer.history["ul_loss"] == whole.history["ul_loss"][:2]
    assert trainer.history["seen"] == [1.0, 1.0]
    resumed = make(ModelCheckpoint(tmp_path, every_n_steps=50, save_on_exception=True))
    resumed.fit({}, {}, max_steps=3, resume_from="last")
    assert resumed.history["ul_loss"] == whole.history["ul_loss"]


def test_a_step_whose_callback_writes_no_number_has_its_row():
    def write(trainer, state):
        state.metrics["text"] = "none"

    trainer = make(LambdaCallback(on_step_end=write))
    with pytest.raises(TypeError, match="metric 'text'"):
        trainer.fit({}, {}, max_steps=3)
    assert trainer.history["step"] == [1]
    assert "text" not in trainer.history.names()


@dataclasses.dataclass
class Objective:
    """Compared by value, and so not hashable."""

    function: object
    calls: int = 0

    def __call__(self, batch, ul_model, ll_model):
        self.calls += 1
        return self.function(batch, ul_model, ll_model)


class Slotted:
    """Takes no weak references."""

    __slots__ = ("function",)

    def __init__(self, function):
        self.function = function

    def __call__(self, batch, ul_model, ll_model, params=None):
        assert params is not None
        return self.function(batch, ul_model, ll_model)


@pytest.mark.parametrize("kind", [Objective, Slotted])
def test_objectives_need_not_be_hashable(kind):
    problem = Quadratic()
    f, F = kind(problem.f), kind(problem.F)
    if kind is Objective:
        with pytest.raises(TypeError, match="unhashable"):
            hash(f)
    trainer = make(ll_objective=f, ul_objective=F)
    trainer.fit({}, {}, max_steps=2)
    plain = make()
    plain.fit({}, {}, max_steps=2)
    np.testing.assert_equal(trainer.values(), plain.values())


class Data(np.ndarray):
    """An array that can be watched."""


@pytest.mark.parametrize("method", [{}, {"na_op": ["CG"]}, {"gm_op": ["DM"]}, {"fo_op": "MESO"}])
def test_trainers_and_their_data_are_freed_when_they_go(method):
    data = np.ones((2, 3), "float32").view(Data)
    problem = Quadratic()

    def objective(batch, ul_model, ll_model, held=data):
        return problem.f(batch, ul_model, ll_model)

    trainer = make(ll_objective=objective, problem=problem, **method)
    trainer.fit([{"x": data}], {}, max_steps=2, val_loader=[{"x": data}])
    trainer.hypergradient({}, {})
    watched = [weakref.ref(thing) for thing in (trainer, objective, data, trainer.ll_model)]
    del trainer, objective, data
    gc.collect()
    assert [ref() for ref in watched] == [None] * 4
