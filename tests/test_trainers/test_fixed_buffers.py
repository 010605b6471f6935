"""What of a model is not trained: tasks that are computed together share it, and none of them may change it."""

from jboat.trainers.outer_step.task_chunks import TaskChunks
import jittor as jt
from jittor import nn
import numpy as np
from problems import Classifier, Point
import pytest
from small_trainers import make

RATE, STEPS = 0.3, 4
SCALE = np.array([0.5, 1.5])
START = np.array([1.0, -2.0])
RNG = np.random.default_rng(3)
SUPPORT, QUERY = (RNG.normal(size=(3, 2)) for _ in range(2))
LOWER, UPPER = ([{"centre": c.astype("float32")} for c in half] for half in (SUPPORT, QUERY))


class Scaled(Point):
    """A point times a scale that is not trained; a count of calls where ``counts`` says so."""

    counts = False

    def __init__(self, start):
        super().__init__(start)
        self.scale = jt.array(SCALE.astype("float32")).stop_grad()
        self.calls = jt.array([0.0]).stop_grad()

    def execute(self):
        if self.counts:
            self.calls.update(self.calls + 1.0)
        return super().execute() * self.scale


def gap_loss(batch, ul_model, ll_model):
    gap = ll_model() - batch["centre"]
    return 0.5 * (gap * gap).sum()


def trainer_of(together):
    return make(
        ll_model=Scaled(START),
        ul_model=Scaled(START),
        ll_objective=gap_loss,
        ul_objective=gap_loss,
        ll_lr=RATE,
        na_op=["IAD"],
        lower_iters=STEPS,
        tasks_together=together,
    )


@pytest.mark.parametrize("together", [3, "auto"])
def test_a_constant_of_the_model_is_that_of_every_task(together):
    trainer = trainer_of(together)
    found = trainer.hypergradient(LOWER, UPPER)
    contraction = (1 - RATE * SCALE**2) ** STEPS
    ends = SUPPORT / SCALE + contraction * (START - SUPPORT / SCALE)
    gradients = contraction * SCALE * (SCALE * ends - QUERY)
    np.testing.assert_allclose(found.gradients[0].numpy(), gradients.mean(0), rtol=2e-6)
    chunks = trainer.current_run.chunks
    assert chunks.computed > 0
    assert not chunks.refused


@pytest.mark.parametrize("from_step", [1, 2])
def test_what_a_pass_changes_keeps_tasks_apart(from_step, caplog):
    calls, chunks = {}, []
    for together in (1, 3):
        trainer = trainer_of(together)
        for step in (1, 2):
            Scaled.counts = step >= from_step
            trainer.fit([LOWER], [UPPER], max_steps=step)
        calls[together] = trainer.ll_model.calls.item(), trainer.values()
        chunks.append(trainer.current_run.chunks)
    assert calls[3][0] == calls[1][0] > 0
    np.testing.assert_array_equal([*calls[3][1].values()][0], [*calls[1][1].values()][0])
    assert [r.message for r in caplog.records if "running statistics" in r.message]
