"""A score belongs to the parameters it was measured at; NaN, absent and stale ones are told apart."""

from functools import partial
import math

from jboat.callbacks import Callback, EarlyStopping, LambdaCallback, ModelCheckpoint
import numpy as np
from problems import Quadratic
import pytest
import small_trainers

K, LR = 3, 0.1
NAN = math.nan


make = partial(small_trainers.make, ll_lr=LR, lower_iters=K)


def upper_loss(trainer):
    """F at the trainer's variables, by numpy in float64."""
    x, y = (v.numpy().astype(np.float64) for v in (trainer.ul_var[0], trainer.ll_var[0]))
    return Quadratic().upper(y, x)


METHODS = {
    "RAD": {},
    "PTT": {"na_op": ["PTT", "RAD"]},
    "GDA+CG": {"gm_op": ["GDA", "NGD"], "na_op": ["CG"]},
    "cold": {"warm_start": False},
    "DM": {"gm_op": ["GDA", "DM"]},
    **{name: {"fo_op": name} for name in ("ALTO", "GAFFO", "MESO", "PGDO", "VFO")},
    "VSO": {"fo_op": "VSO", "solver_config": {"VSO": {"ul_ln_reg": 0.01, "slack": 1.0, "boundary": 0.5}}},
}


@pytest.mark.parametrize("name", METHODS)
def test_the_best_by_a_steps_own_loss_has_exactly_that_loss(name, tmp_path):
    """The upper loss rises from step to step, so that the best variables are not the last."""
    saver = ModelCheckpoint(tmp_path, monitor="ul_loss", mode="max", every_n_steps=1)
    stopping = EarlyStopping("ul_loss", mode="max", patience=9, restore_best=True)
    trainer = make(saver, stopping, ul_lr=0.3, **METHODS[name])
    history = trainer.fit({}, {}, max_steps=3)
    best = max(history["ul_loss"])
    assert upper_loss(trainer) == pytest.approx(best, rel=1e-5)
    for path in (saver.best_path, tmp_path / "best.npz"):
        loaded = make(ul_lr=0.3, **METHODS[name])
        loaded.load_checkpoint(path)
        assert upper_loss(loaded) == pytest.approx(best, rel=1e-5)
        np.testing.assert_equal(loaded.values(), trainer.values())


def test_x_that_was_best_before_a_step_too_far_comes_back(tmp_path):
    problem = Quadratic()
    saver = ModelCheckpoint(tmp_path, monitor="ul_loss", every_n_steps=1)
    trainer = make(EarlyStopping("ul_loss", patience=1, restore_best=True), saver, ul_lr=30.0)
    history = trainer.fit({}, {}, max_steps=3)
    exact = problem.reference(("RAD",), K=K, lr=LR)[1]
    assert history["ul_loss"][0] == pytest.approx(exact, rel=1e-5)
    assert history["ul_loss"][1] > 10 * exact
    np.testing.assert_array_equal(trainer.ul_var[0].numpy(), problem.x0.astype("float32"))
    y = problem.iterates(problem.x0, problem.y0, K, LR, np.zeros(K))[-1]
    np.testing.assert_allclose(trainer.ll_var[0].numpy(), y, rtol=1e-5, atol=1e-6)
    assert saver.best_path == tmp_path / "step-00000001.npz"
    best = make(ModelCheckpoint(tmp_path, monitor="ul_loss", every_n_steps=1), ul_lr=30.0)
    best.fit({}, {}, max_steps=1, resume_from="best")
    np.testing.assert_array_equal(best.ul_var[0].numpy(), problem.x0.astype("float32"))


@pytest.mark.parametrize("damage", [False, True])
def test_last_goes_on_after_the_step_bit_by_bit(damage, tmp_path):
    def saver(folder):
        return ModelCheckpoint(tmp_path / folder, monitor="ul_loss", every_n_steps=1, save_top_k=-1)

    whole = make(saver("whole"))
    whole.fit({}, {}, max_steps=5)
    make(saver("parts")).fit({}, {}, max_steps=3)
    if damage:
        (tmp_path / "parts" / "last.npz").write_bytes(b"rubbish")
    parts = make(saver("parts"))
    parts.fit({}, {}, max_steps=5, resume_from="last")
    np.testing.assert_equal(parts.values(), whole.values())
    assert parts.history["ul_loss"] == whole.history["ul_loss"]


def test_a_metric_of_a_callback_belongs_to_the_parameters_after_the_step(tmp_path):
    def distance(trainer, state):
        state.metrics["largest"] = float(np.abs(trainer.ul_var[0].numpy()).max())

    saver = ModelCheckpoint(tmp_path, monitor="largest", every_n_steps=1)
    trainer = make(LambdaCallback(on_step_end=distance), saver)
    history = trainer.fit({}, {}, max_steps=4)
    loaded = make()
    loaded.load_checkpoint(saver.best_path)
    assert np.abs(loaded.ul_var[0].numpy()).max() == min(history["largest"])


def scripted(values):
    numbers = iter(values)
    return {"metrics": {"score": lambda batch, ul_model, ll_model: next(numbers)}}


def saved(saver):
    return {int(name[5:13]): score for score, name in saver.state_dict()["saved"]}


def test_a_nan_is_never_the_best(tmp_path):
    for folder, values, best in (("a", [NAN, 0.5, 0.9, 0.7], 3), ("b", [0.5, NAN, NAN], 1), ("c", [NAN, NAN], None)):
        saver = ModelCheckpoint(tmp_path / folder, monitor="val_score", mode="max", every_n_steps=1)
        make(saver, **scripted(values)).fit({}, {}, max_steps=len(values), val_loader={}, val_every=1)
        expected = None if best is None else tmp_path / folder / f"step-{best:08d}.npz"
        assert saver.best_path == expected
        assert (tmp_path / folder / "best.npz").exists() == (best is not None)


def test_only_steps_that_were_evaluated_have_a_score(tmp_path):
    saver = ModelCheckpoint(tmp_path, monitor="val_score", every_n_steps=2, save_top_k=-1)
    make(saver, **scripted([1.0, 5.0])).fit({}, {}, max_steps=6, val_loader={}, val_every=3)
    assert saved(saver) == {2: None, 4: None, 6: 5.0}
    assert saver.best_path == tmp_path / "step-00000006.npz"


def test_a_stale_score_never_displaces_a_measured_one(tmp_path):
    saver = ModelCheckpoint(tmp_path, monitor="val_score", every_n_seconds=1e-9)
    trainer = make(saver, **scripted([1.0, 5.0]))
    trainer.fit({}, {}, max_steps=5, val_loader={}, val_every=3)
    assert saved(saver) == {3: 1.0}
    assert saver.best_path == tmp_path / "step-00000003.npz"
    resumed = make(ModelCheckpoint(tmp_path, monitor="val_score", every_n_seconds=1e-9), **scripted([]))
    resumed.load_checkpoint(tmp_path / "last.npz")
    assert resumed.state.step == 5


def test_a_step_that_is_evaluated_after_it_was_saved_gets_its_score(tmp_path):
    """Without val_every the evaluation comes at the end of the epoch, after the last step's checkpoint."""
    saver = ModelCheckpoint(tmp_path, monitor="val_score", every_n_steps=1)
    make(saver, **scripted([3.0, 2.0, 4.0])).fit([{}, {}], {}, max_epochs=3, val_loader={})
    assert saved(saver) == {4: 2.0}
    loaded = make(ModelCheckpoint(tmp_path, monitor="val_score", every_n_steps=1), **scripted([]))
    loaded.load_checkpoint(tmp_path / "best.npz")
    assert (loaded.state.step, loaded.state.validation["val_score"]) == (4, 2.0)


def test_scores_survive_a_resume(tmp_path):
    def saver(folder):
        return ModelCheckpoint(tmp_path / folder, monitor="val_score", every_n_steps=1, save_top_k=3)

    values = [NAN, 3.0, 2.0, NAN]
    whole = saver("whole")
    make(whole, **scripted(values)).fit({}, {}, max_steps=8, val_loader={}, val_every=2)
    make(saver("parts"), **scripted(values)).fit({}, {}, max_steps=4, val_loader={}, val_every=2)
    parts = saver("parts")
    trainer = make(parts, **scripted(values[2:]))
    trainer.fit({}, {}, max_steps=8, val_loader={}, val_every=2, resume_from="last")
    assert saved(parts) == saved(whole) == {4: 3.0, 6: 2.0, 7: None}
    assert parts.best_path.name == whole.best_path.name == "step-00000006.npz"


class Now(Callback):
    """Publishes a number at some steps only."""

    later_metrics = ("now",)

    def __init__(self, values):
        self.values = values

    def on_step_end(self, trainer, state):
        if state.step in self.values:
            state.metrics["now"] = self.values[state.step]


def test_early_stopping_counts_only_steps_that_have_the_metric():
    stopping = EarlyStopping("now", patience=2)
    trainer = make(stopping, Now({2: 1.0, 4: 2.0, 6: 3.0}))
    trainer.fit({}, {}, max_steps=9)
    assert (trainer.state.step, stopping.wait, stopping.best_step) == (6, 2, 2)


def test_an_interrupt_scores_the_step_that_was_finished(tmp_path):
    """The exception comes in the middle of step 3, whose loss nothing has been saved for."""

    def fail(trainer, state, result):
        if state.step == 2:
            raise KeyboardInterrupt

    saver = ModelCheckpoint(tmp_path, monitor="ul_loss", every_n_steps=50)
    trainer = make(LambdaCallback(on_before_upper_step=fail), saver, ul_lr=0.3)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit({}, {}, max_steps=9)
    assert saved(saver) == {2: trainer.history["ul_loss"][1]}
    loaded = make(ul_lr=0.3)
    loaded.load_checkpoint(saver.best_path)
    assert upper_loss(loaded) == pytest.approx(trainer.history["ul_loss"][1], rel=1e-5)


def test_an_interrupt_right_after_a_resume_keeps_the_score_that_was_there(tmp_path):
    def saver():
        return ModelCheckpoint(tmp_path, monitor="ul_loss", every_n_steps=1)

    first = saver()
    make(first, ul_lr=0.3).fit({}, {}, max_steps=2)
    before = saved(first)

    def fail(trainer, state):
        raise KeyboardInterrupt

    again = saver()
    with pytest.raises(KeyboardInterrupt):
        make(LambdaCallback(on_step_start=fail), again, ul_lr=0.3).fit({}, {}, max_steps=3, resume_from="last")
    assert saved(again) == before
    loaded = make(ul_lr=0.3)
    loaded.load_checkpoint(first.best_path)
    assert upper_loss(loaded) == pytest.approx(min(before.values()), rel=1e-5)
