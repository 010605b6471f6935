"""Trainers in threads of their own: each gets its own numbers, and Jittor is as it was afterwards."""

import threading

from jboat.backend.replacements import dispatch
from jboat.callbacks import LambdaCallback
import jittor as jt
from jittor import nn
import numpy as np
from problems import Classifier
from small_trainers import make

STEPS = 4


def test_two_fits_that_overlap():
    """The first ends while the second runs; each step of one is followed by a step of the other."""
    problems = [Classifier(seed=seed) for seed in (0, 1)]
    alone = [make(problem=p).fit(*p.batches(), max_steps=STEPS + 2 * i)["ul_loss"] for i, p in enumerate(problems)]
    turns = [threading.Semaphore(1), threading.Semaphore(0)]
    together, errors = [None, None], []

    def run(i):
        def wait(trainer, state):
            turns[i].acquire()

        def let_other(trainer, state):
            turns[1 - i].release()

        trainer = make(LambdaCallback(on_step_start=wait, on_step_end=let_other), problem=problems[i])
        try:
            history = trainer.fit(*problems[i].batches(), max_steps=STEPS + 2 * i)
            together[i] = history["ul_loss"]
        except Exception as error:
            errors.append(error)
        finally:
            for _ in range(STEPS):
                turns[1 - i].release()

    threads = [threading.Thread(target=run, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)
    assert errors == []
    np.testing.assert_array_equal(together[0], alone[0])
    np.testing.assert_array_equal(together[1], alone[1])
    assert all(dispatch.current(*place) is found.original for place, found in dispatch.installed().items())


def test_a_users_relu_is_used_by_fit(monkeypatch):
    problem = Classifier(hidden=5)
    calls = []

    def tanh(x):
        calls.append(x)
        return x.tanh()

    monkeypatch.setattr(nn, "relu", tanh)

    def fit(activation):
        _, ll_model = problem.models()
        ll_model.layers[1] = activation
        trainer = make(problem=problem, ll_model=ll_model)
        return trainer.fit(*problem.batches(), max_steps=2)["ul_loss"]

    class Relu(jt.Module):
        def execute(self, x):
            return nn.relu(x)

    wanted = fit(nn.Tanh())
    assert fit(Relu()) == wanted
    assert calls
    assert nn.relu is tanh
