"""What of a model is not trained: tasks that are computed together share it, and none of them may change it."""

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
def test_what_a_pass_changes_keeps_tasks_apart(from_step, caplog, monkeypatch):
    ends = {}
    for together in (1, 3):
        trainer = trainer_of(together)
        for step in (1, 2):
            monkeypatch.setattr(Scaled, "counts", step >= from_step)
            trainer.fit([LOWER], [UPPER], max_steps=step)
        ends[together] = trainer.ll_model.calls.item(), trainer.ul_model.value.numpy()
    assert ends[3][0] == ends[1][0] > 0
    np.testing.assert_array_equal(ends[3][1], ends[1][1])
    assert trainer.current_run.chunks.computed == from_step - 1
    assert sum("running statistics" in record.message for record in caplog.records) == 1


def test_batch_norm_that_does_not_train_is_a_constant():
    ends = {}
    for together in (1, 2):
        model = nn.Sequential(nn.Linear(6, 5), norm := nn.BatchNorm1d(5), nn.Linear(5, 3))
        rng = np.random.default_rng(0)
        for p in [*model.parameters()]:
            p.assign(jt.array(rng.uniform(0.5, 1.0, p.shape).astype("float32")))
        norm.is_train = False
        trainer = make(problem=Classifier(), ll_model=model, ll_lr=RATE, lower_iters=3, tasks_together=together)
        lower, upper = zip(*(Classifier(seed=seed).batches() for seed in (0, 1)), strict=True)
        ends[together] = trainer.hypergradient([*lower], [*upper]).gradients[0].numpy()
    np.testing.assert_allclose(ends[2], ends[1], rtol=0, atol=1e-6 * abs(ends[1]).max())
    assert trainer.current_run.chunks.computed == 1
