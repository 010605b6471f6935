"""Where the GPU's memory does not suffice, the error says at which step and what to try, and training can go on.

The memory is never short here: objectives raise what Jittor raises then.
"""

from jboat import DeviceMemoryError
from jboat.backend import out_of_memory
from jboat.backend.stacked.array import Stacked
import jittor as jt
import numpy as np
from problems import Classifier, Quadratic
import pytest
import small_trainers

PROBLEM = Quadratic()
SAID = "Unable to alloc cuda device memory for size34359738368"
MESSAGE = f"""Execute fused operator(3/5) failed.
[Error]: [f 0101 00:00:00.000000 00 cuda_device_allocator.cc:31] {SAID}
**********
Async error was detected. To locate the async backtrace and get better error report, please rerun your code with
>>> export trace_py_var=3
"""


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(out_of_memory, "_runs_on_gpu", lambda: True)


class Failing:
    """An objective of the problem, and a call of it that raises."""

    def __init__(self, objective):
        self.objective = objective
        self.calls = 0
        self.fails_at = None
        self.message = MESSAGE

    def __call__(self, batch, ul_model, ll_model):
        self.calls += 1
        if self.calls == self.fails_at:
            raise RuntimeError(self.message)
        return self.objective(batch, ul_model, ll_model)


def make(f, F, **options):
    return small_trainers.make(problem=PROBLEM, ll_objective=f, ul_objective=F, lower_iters=4, **options)


def parameters(trainer):
    return [p.numpy().copy() for p in (*trainer.ll_var, *trainer.ul_var)]


@pytest.mark.parametrize(
    ("options", "level", "operator"),
    [
        ({}, "lower", "NGD"),
        ({}, "upper", "RAD"),
        ({"na_op": ["CG"]}, "upper", "CG"),
        ({"gm_op": ["DM", "NGD"]}, "lower", "DM"),
        ({"fo_op": "VFO"}, "lower", "VFO"),
    ],
)
def test_the_error_names_step_and_operator_and_training_goes_on(options, level, operator):
    f, F = Failing(PROBLEM.f), Failing(PROBLEM.F)
    trainer = make(f, F, **options)
    trainer.fit({}, {}, max_steps=2)
    before = parameters(trainer)
    failing = f if level == "lower" else F
    failing.fails_at = failing.calls + 2  # after the check of the first batch
    with pytest.raises(
        DeviceMemoryError, match=rf"{operator}: out of GPU memory at outer step 3\. .*remat_every"
    ) as info:
        trainer.fit({}, {}, max_steps=2, check_second_order=False)
    assert (info.value.operator, info.value.step) == (operator, 3)
    assert str(info.value).endswith(SAID)
    assert "in __call__" in info.value.original
    for now, then in zip(parameters(trainer), before, strict=True):
        np.testing.assert_array_equal(now, then)
    trainer.fit({}, {}, max_steps=2)

    undisturbed = make(PROBLEM.f, PROBLEM.F, **options)
    undisturbed.fit({}, {}, max_steps=4)
    for now, wanted in zip(parameters(trainer), parameters(undisturbed), strict=True):
        np.testing.assert_allclose(now, wanted, rtol=1e-6)


def test_a_hypergradient_alone_fails_in_the_same_way():
    F = Failing(PROBLEM.F)
    trainer = make(PROBLEM.f, F)
    F.fails_at = 1
    with pytest.raises(DeviceMemoryError, match="outer step 1"):
        trainer.hypergradient({}, {})
    trainer.hypergradient({}, {})


def test_the_check_of_the_first_batch_fails_in_the_same_way():
    f = Failing(PROBLEM.f)
    f.fails_at = 1
    trainer = make(f, PROBLEM.F, na_op=["CG"])
    with pytest.raises(DeviceMemoryError, match="CG: out of GPU memory at outer step 1"):
        trainer.fit({}, {}, max_steps=1)
    trainer.fit({}, {}, max_steps=1)


def test_nothing_of_what_failed_is_kept():
    held = []

    def f(batch, ul_model, ll_model):
        loss = PROBLEM.f(batch, ul_model, ll_model)
        if held:
            raise RuntimeError(MESSAGE)
        return loss

    trainer = make(f, PROBLEM.F)
    trainer.fit({}, {}, max_steps=1)
    jt.gc()
    before = jt.liveness_info()["lived_vars"]
    held.append(True)
    with pytest.raises(DeviceMemoryError) as info:
        trainer.hypergradient({}, {})
    assert info.value.__cause__ is None
    jt.gc()
    assert jt.liveness_info()["lived_vars"] <= before + 2


def test_on_a_cpu_it_is_another_error(monkeypatch):
    monkeypatch.setattr(out_of_memory, "_runs_on_gpu", lambda: False)
    f = Failing(PROBLEM.f)
    f.message = "a worker is out of memory"
    f.fails_at = 1
    with pytest.raises(RuntimeError, match="a worker") as info:
        make(f, PROBLEM.F).hypergradient({}, {})
    assert not isinstance(info.value, DeviceMemoryError)


def test_an_evaluation_fails_in_the_same_way():
    F = Failing(PROBLEM.F)
    trainer = make(PROBLEM.f, F)
    trainer.fit({}, {}, max_steps=1)
    F.fails_at = F.calls + 1
    with pytest.raises(DeviceMemoryError, match="evaluate: out of GPU memory at outer step 2"):
        trainer.evaluate({})
    trainer.evaluate({})


def test_other_errors_stay_what_they_are():
    f = Failing(PROBLEM.f)
    f.message = "the objective's own"
    trainer = make(f, PROBLEM.F)
    f.fails_at = 1
    with pytest.raises(RuntimeError, match="the objective's own") as info:
        trainer.hypergradient({}, {})
    assert not isinstance(info.value, DeviceMemoryError)


def test_memory_that_runs_out_in_an_objective_of_several_tasks_halves_the_chunk(caplog):
    """It is no operation that tasks do not know."""

    def scarce(batch, ul_model, ll_model):
        if isinstance(batch["data"], Stacked) and batch["data"].tasks > 2:
            raise RuntimeError(MESSAGE)
        return Classifier.f(batch, ul_model, ll_model)

    tasks = [Classifier(hidden=5, seed=seed).batches() for seed in (0, 1, 2, 3)]
    own = {"problem": Classifier(hidden=5), "ll_lr": 0.3, "lower_iters": 3, "tasks_together": 4}
    trainer = small_trainers.make(ll_objective=scarce, **own)
    trainer.hypergradient(*map(list, zip(*tasks, strict=True)))
    assert trainer.current_run.chunks.computed == 2
    assert "2 tasks from now on, as 4 do not fit" in caplog.text
    assert not trainer.current_run.chunks.refused
