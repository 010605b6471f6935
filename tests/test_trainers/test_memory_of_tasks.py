"""The memory of several tasks at once is theirs, not that of a trial; unknown memory is no empty memory."""

import gc
import logging

from jboat import number_of_checkpoints
from jboat.backend import free_memory
from jboat.trainers.outer_step import task_chunks
import jittor as jt
import numpy as np
from problems import Classifier
import pytest
from small_trainers import make


def batches(number):
    """Of tasks of equal shapes."""
    tasks = [Classifier(hidden=5, seed=seed).batches() for seed in range(number)]
    return [lower for lower, _ in tasks], [upper for _, upper in tasks]


def trainer_of(**arguments):
    return make(problem=Classifier(hidden=5), ll_lr=0.3, lower_iters=3, **arguments)


def test_iterates_are_counted_for_as_many_tasks_as_are_stepped(monkeypatch):
    iterates, chosen = [], number_of_checkpoints.chosen

    def noted(size, *args, **kwargs):
        iterates.append(size.iterate)
        return chosen(size, *args, **kwargs)

    monkeypatch.setattr(number_of_checkpoints, "chosen", noted)
    trainer = trainer_of(tasks_together=4, solver_config={"RAD": {"checkpoints": "auto"}})
    trainer.hypergradient(*batches(4))
    trainer.hypergradient(*batches(4))
    numbers = sum(v.numel() for v in trainer.ll_var)
    assert iterates == [4 * numbers * tasks for tasks in (1, 2, 4)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"tasks_together": "auto"}, "all tasks of a step are computed at once"),
        ({"solver_config": {"RAD": {"checkpoints": "auto"}}}, "all graphs are kept"),
    ],
)
def test_unknown_memory_limits_nothing(arguments, said, monkeypatch, caplog):
    monkeypatch.setattr(free_memory, "free", lambda: None)
    trainer = trainer_of(**arguments)
    with caplog.at_level(logging.WARNING, "jboat"):
        for _ in range(2):
            trainer.hypergradient(*batches(4))
    assert caplog.text.count(said) == 1
    assert trainer.current_run.chunks.computed == 2 * ("tasks_together" in arguments)


class Cycle:
    """What Python alone can let go of, some time after nobody holds it: 40 kB."""

    def __init__(self):
        self.own, self.array = self, jt.array(np.zeros(10_000, np.float32))
        self.array.sync()


@pytest.mark.parametrize(
    ("module", "name", "arguments"),
    [
        (number_of_checkpoints, "chosen", {"solver_config": {"RAD": {"checkpoints": "auto"}}}),
        (task_chunks, "tasks_that_fit", {"tasks_together": "auto"}),
    ],
)
def test_what_python_lets_go_of_meanwhile_is_not_taken_off(module, name, arguments, monkeypatch):
    sizes, asked, held = [], getattr(module, name), free_memory.held

    def noted(size, *args, **kwargs):
        sizes.append(getattr(size, "graph", size))
        return asked(size, *args, **kwargs)

    def collected():
        found = held()
        gc.collect()
        return found

    monkeypatch.setattr(module, name, noted)
    monkeypatch.setattr(free_memory, "held", collected)
    gc.disable()
    try:
        for make_garbage in (int, Cycle):
            trainer = trainer_of(**arguments)
            make_garbage()
            trainer.hypergradient(*batches(4))
            gc.collect()
    finally:
        gc.enable()
    assert sizes[0] == sizes[1] > 0
