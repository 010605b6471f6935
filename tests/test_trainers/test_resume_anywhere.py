"""A checkpoint saved in any hook of the loop is gone on from exactly, where a step's batches wrap around a pass too."""

from jboat.callbacks import LambdaCallback
import jittor as jt
import numpy as np
from problems import Quadratic
import pytest
import small_trainers

BATCHES = 5
HOOKS = ("on_epoch_start", "on_step_start", "on_before_upper_step", "on_step_end", "on_evaluate_end", "on_epoch_end")
FIT = {"max_epochs": 3, "val_loader": [{}], "val_every": 2}


def shuffled():
    for scale in np.random.permutation(BATCHES):
        yield {"scale": 0.5 + 0.1 * float(scale)}


def make(accumulate, save=lambda trainer: None, **kwargs):
    problem = Quadratic()
    saver = LambdaCallback(**dict.fromkeys(HOOKS, lambda trainer, state, *result: save(trainer)))
    saver.rank = 2  # after the history has its row, as ModelCheckpoint
    return small_trainers.make(
        saver,
        problem=problem,
        ll_objective=lambda batch, ul, ll: batch.get("scale", 1.0) * problem.f(batch, ul, ll),
        ul_optimizer=lambda params: jt.optim.Adam(params, 0.05),
        **{"lower_iters": 3, **kwargs},
        accumulate=accumulate,
        seed=3,
    )


@pytest.mark.parametrize(
    ("accumulate", "kwargs"), [(1, {}), (2, {}), (3, {}), (2, {"fo_op": "MESO"}), (2, {"gm_op": ["DM"]})]
)
def test_from_every_hook(accumulate, kwargs, tmp_path):
    saved = []

    def save(trainer):
        saved.append((trainer.state.phase, tmp_path / f"{len(saved)}.npz"))
        trainer.save_checkpoint(saved[-1][1])

    whole = make(accumulate, save, **kwargs)
    whole.fit(shuffled, {}, **FIT)
    assert len({phase for phase, _ in saved}) >= 5
    for phase, path in saved:
        parts = make(accumulate, **kwargs)
        parts.fit(shuffled, {}, resume_from=path, **FIT)
        np.testing.assert_equal(parts.values(), whole.values(), err_msg=f"{phase} {path.name}")
        for name in ("step", "epoch", "ul_loss", "val_ul_loss"):
            np.testing.assert_array_equal(parts.history[name], whole.history[name], err_msg=f"{phase} {path.name}")
