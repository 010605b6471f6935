"""Hooks are called once for what a step is made of: a chunk that is computed together, or each of its tasks alone."""

import dataclasses
import logging

from jboat.backend.stacked.array import NotStackedError, Stacked
from jboat.callbacks import LambdaCallback
from jboat.trainers.errors import DeviceMemoryError
from jboat.trainers.outer_step.task_chunks import TaskChunks
import numpy as np
from problems import Classifier
import pytest
from small_trainers import make

RATE = 0.3
HOOKS = ["on_lower_loop_start", "on_lower_loop_end", "on_hypergradient_start", "on_hypergradient_end"]


def four_tasks():
    """The batches of four tasks of equal shapes."""
    tasks = [Classifier(hidden=5, seed=seed).batches() for seed in (0, 1, 2, 3)]
    return [[lower for lower, _ in tasks]], [[upper for _, upper in tasks]]


def trainer_of(*callbacks, together=4, **arguments):
    problem = Classifier(hidden=5)
    return make(*callbacks, problem=problem, ll_lr=RATE, lower_iters=3, tasks_together=together, **arguments)


def no_room(found):
    raise DeviceMemoryError("no room", operator="RAD", step=1, original="")


def another_path(found):
    raise NotStackedError("another path")


def infinite(found):
    return dataclasses.replace(found, upper_loss=float("nan"))


@pytest.mark.parametrize(("end", "units"), [(None, 1), (no_room, 2), (another_path, 4), (infinite, 4)])
def test_hooks_are_called_once(end, units, monkeypatch):
    calls, results, together = [], [], TaskChunks._together

    def ending(self, pair, tasks, *others):
        found = together(self, pair, tasks, *others)
        return end(found) if end and tasks > 2 else found

    def hook(name):
        def call(trainer, state, *result):
            calls.append(name)
            results.extend((r.upper_loss, r.lower_loss, r.gradients[0].numpy()) for r in result)

        return call

    monkeypatch.setattr(TaskChunks, "_together", ending)
    trainer = trainer_of(LambdaCallback(**{name: hook(name) for name in HOOKS}))
    row = trainer.fit(*four_tasks(), max_steps=1)[-1]
    assert calls == HOOKS * units
    upper, lower, gradients = (np.mean(values, axis=0) for values in zip(*results, strict=True))
    assert (upper, lower) == pytest.approx((row["ul_loss"], row["ll_loss"]), rel=1e-6)
    assert np.linalg.norm(gradients) == pytest.approx(row["hypergradient_norm"], rel=1e-5)


@pytest.mark.parametrize("error", [AttributeError, TypeError])
def test_an_error_of_a_hook_ends_the_run(error, caplog):
    def failing(trainer, state, result):
        raise error("the hook's own")

    trainer = trainer_of(LambdaCallback(on_hypergradient_end=failing))
    with pytest.raises(error, match="the hook's own"):
        trainer.fit(*four_tasks(), max_steps=1)
    assert "one after another" not in caplog.text


def test_what_a_chunk_has_logged_that_is_computed_again_is_forgotten(monkeypatch):
    together = TaskChunks._together

    def objective(batch, ul_model, ll_model):
        trainer.log("seen", 100.0 if isinstance(batch["data"], Stacked) else 1.0)
        return Classifier.f(batch, ul_model, ll_model)

    monkeypatch.setattr(
        TaskChunks, "_together", lambda *args: infinite(found) if (found := together(*args)) and args[2] > 2 else found
    )
    trainer = trainer_of(ll_objective=objective)
    assert trainer.fit(*four_tasks(), max_steps=1)[-1]["seen"] == 1.0


@pytest.mark.parametrize("free", [1, 2**40])
def test_an_automatic_number_never_raises(free, monkeypatch, caplog):
    """With hardly any memory two tasks are not tried together; where there seems to be some, the trial may fail."""
    asked = []

    def none_left(self, pair, tasks, *others):
        asked.append(tasks)
        no_room(None)

    batches = four_tasks()
    alone = trainer_of(together=1)
    alone.fit(*batches, max_steps=2)
    monkeypatch.setattr("jboat.backend.free_memory.free", lambda: free)
    monkeypatch.setattr(TaskChunks, "_together", none_left)
    trainer = trainer_of(together="auto")
    with caplog.at_level(logging.WARNING, "jboat"):
        trainer.fit(*batches, max_steps=2)
    for name, value in alone.values().items():
        np.testing.assert_array_equal(trainer.values()[name], value)
    assert asked == ([] if free == 1 else [2])
    assert caplog.text.count("one task at a time, as two do not fit") == len(asked)
