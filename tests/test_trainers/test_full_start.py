"""A method that starts from all batches says why it cannot start, once, and which batch is to blame."""

import logging

from jboat import StopReason
from jboat.callbacks import NaNGuard
import numpy as np
from problems import NoisyQuadratic
import pytest
from small_trainers import make

PROBLEM = NoisyQuadratic()


def run(method, *, level, number, skips=3, lower=None):
    loaders = PROBLEM.loaders()
    batch = loaders[level][number]
    loaders[level][number] = {**batch, "c" if level == 0 else "t": np.full(8, np.nan, np.float32)}
    trainer = make(NaNGuard("skip", max_skips=skips), problem=PROBLEM, sl_op=method, **(lower or {}))
    trainer.fit(*loaders, max_steps=len(loaders[0]) + 2)
    return trainer


def told(caplog):
    return [r for r in caplog.records if r.levelno == logging.WARNING and "starts from the full" in r.getMessage()]


@pytest.mark.parametrize(("level", "blamed"), [(0, "lower batch 2,"), (1, "upper batch 2,")])
def test_the_batch_is_named_once(level, blamed, caplog):
    trainer = run("SRBA", level=level, number=2)
    assert trainer.state.stop_reason is StopReason.NON_FINITE
    assert trainer.history["skipped_steps"] == [1, 2, 3, 4]
    (record,) = told(caplog)
    lower, upper = PROBLEM.loaders()
    assert f"SRBA starts from the full directions, on average over all {len(lower)} lower and {len(upper)} upper" in (
        record.getMessage()
    )
    assert f"Such numbers are in {blamed} counted from 0" in record.getMessage()


def test_a_method_that_goes_on_with_other_batches_is_not_told_of(caplog):
    trainer = run("SOBA", level=0, number=2)
    assert trainer.state.stop_reason is StopReason.MAX_STEPS
    assert trainer.history["skipped_steps"][-1] == 1
    assert not told(caplog)


def test_objectives_that_make_nan_of_sound_batches(caplog):
    class Failing(NoisyQuadratic):
        def F(self, batch, ul_model, ll_model):
            return super().F(batch, ul_model, ll_model) * np.nan

    trainer = make(NaNGuard("skip", max_skips=1), problem=Failing(), sl_op="SRBA")
    trainer.fit(*PROBLEM.loaders(), max_steps=3)
    (record,) = told(caplog)
    assert "None holds such numbers itself." in record.getMessage()
