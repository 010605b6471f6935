"""``fit(fast_dev_run=N)`` runs everything and leaves nothing; ``limit_batches`` shortens passes."""

import logging

from jboat.callbacks import (
    Callback,
    CSVLogger,
    CurvePlotter,
    EarlyStopping,
    JSONLLogger,
    LambdaCallback,
    LRSchedule,
    ModelCheckpoint,
    TensorBoardLogger,
)
from jboat.callbacks.callback import HOOKS
import jittor as jt
import numpy as np
import pytest
import small_trainers


class Shuffled(jt.dataset.Dataset):
    def __init__(self):
        super().__init__()
        self.set_attrs(batch_size=2, total_len=8, shuffle=True)

    def __getitem__(self, i):
        return np.array([i], "float32"), np.array([i], "float32")


def seen_by(trainer):
    """The numbers that do not differ between two runs, and the parameters."""
    rows = [{k: v for k, v in row.items() if not k.startswith("time_")} for row in trainer.history.rows]
    return rows, trainer.values()


def test_every_hook_is_called_and_every_file_is_written_aside(tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.csv").write_text("the run of last week")
    called, there = [], []
    spy = LambdaCallback(**{h: lambda *a, h=h: called.append(h) for h in HOOKS if h != "on_exception"})
    checkpoints = ModelCheckpoint("checkpoints", monitor="val_ul_loss", every_n_epochs=1)
    loggers = [CSVLogger(), JSONLLogger(tmp_path / "json"), TensorBoardLogger(), CurvePlotter(tmp_path / "json")]

    class Looks(Callback):
        rank = 2

        def on_fit_end(self, trainer, state):
            there.extend(p.name for p in trainer.current_run.scratch_folder.rglob("*.*"))

    trainer = small_trainers.make(spy, Looks(), *loggers, checkpoints, logger_dir="run")
    with caplog.at_level(logging.WARNING, "jboat"):
        history = trainer.fit(Shuffled(), Shuffled(), val_loader=Shuffled(), max_epochs=50, fast_dev_run=2)
    assert set(HOOKS) - {"on_exception"} == set(called)
    assert called.count("on_step_end") == 2
    assert {"metrics.csv", "metrics.jsonl", "curves.png", "best.npz", "last.npz"} <= set(there)
    assert any(name.startswith("events") for name in there)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]
    assert (tmp_path / "run" / "metrics.csv").read_text() == "the run of last week"
    assert history["step"] == [1, 2]
    assert len(history["val_ul_loss"]) == 1
    said = caplog.records[-1].getMessage()
    assert said.startswith(
        "fast_dev_run: 2 outer steps in 1 epoch, an evaluation and a checkpoint ran, with LambdaCallb"
    )
    assert "ModelCheckpoint; the trainer is as it was, and no file was kept" in said


@pytest.mark.parametrize("before", [0, 3])
def test_the_run_after_it_is_the_one_without_it(before):
    def make():
        optimizer = {}

        def adam(parameters):
            optimizer["ul"] = jt.optim.Adam(parameters, 0.05)
            return optimizer["ul"]

        stopping = EarlyStopping("ul_loss", patience=100)
        return small_trainers.make(
            stopping,
            LambdaCallback(),
            ul_optimizer=adam,
            seed=3,
            gm_op=["GDA", "DI", "NGD"],
            ll_optimizer_state="carry",
        )

    runs = []
    for tries in (False, True):
        trainer, loaders = make(), (Shuffled(), Shuffled())
        if before:
            trainer.fit(*loaders, max_steps=before)
        if tries:
            tried = trainer.fit(*loaders, fast_dev_run=3, val_loader={})
            assert len(tried) == 3
            assert trainer.state.step == before
            assert len(trainer.history) == before
        trainer.fit(*loaders, max_steps=5)
        runs.append(seen_by(trainer))
    np.testing.assert_equal(runs[0], runs[1])


def test_a_schedule_is_put_back():
    def make():
        trainer = small_trainers.make(LRSchedule(lambda step: 0.1 / (1 + step), level="upper"), seed=1)
        return trainer

    plain, tried = make(), make()
    tried.fit({}, {}, fast_dev_run=True)
    for trainer in (plain, tried):
        trainer.fit({}, {}, max_steps=3)
    np.testing.assert_equal(seen_by(plain), seen_by(tried))


def test_what_fails_in_it_is_raised_and_leaves_the_trainer_as_it_was():
    def fail(trainer, state):
        raise LookupError("broken hook")

    trainer = small_trainers.make(LambdaCallback(on_epoch_end=fail))
    before = trainer.values()
    with pytest.raises(LookupError, match="broken hook"):
        trainer.fit({}, {}, fast_dev_run=2)
    np.testing.assert_equal(trainer.values(), before)
    assert trainer.state.step == 0
    assert trainer.current_run.scratch_folder is None


def test_a_state_that_no_checkpoint_holds_is_found():
    class Odd(Callback):
        def state_dict(self):
            return {"what": object()} if self.ran else {}

        ran = False

        def on_step_end(self, trainer, state):
            self.ran = True

    with pytest.raises(TypeError, match="cannot store a object"):
        small_trainers.make(Odd()).fit({}, {}, fast_dev_run=1)


@pytest.mark.parametrize("wrong", [-1, 1.5, "2"])
def test_a_number_of_steps_is_needed(wrong):
    trainer = small_trainers.make()
    with pytest.raises((TypeError, ValueError), match="fast_dev_run must be"):
        trainer.fit({}, {}, fast_dev_run=wrong)
    trainer.fit({}, {}, max_steps=1, fast_dev_run=0)
    assert trainer.state.step == 1


def test_passes_are_shortened():
    drawn = {"ll": 0, "ul": 0, "val": 0}

    def loader(name):
        def batches():
            for _ in range(10):
                drawn[name] += 1
                yield {}

        return batches

    trainer = small_trainers.make()
    trainer.fit(loader("ll"), loader("ul"), val_loader=loader("val"), max_epochs=2, limit_batches=3)
    assert trainer.state.step == 6
    assert trainer.state.epoch == 2
    assert drawn == {"ll": 6, "ul": 6, "val": 6}
    trainer.fit([{}, {}], [{}] * 5, max_epochs=1, limit_batches=3)
    assert trainer.state.step == 8
    with pytest.raises(ValueError, match="limit_batches must be at least 1"):
        trainer.fit({}, {}, limit_batches=0)
    with pytest.raises(TypeError, match="limit_batches must be an integer"):
        trainer.fit({}, {}, limit_batches=0.5)


def test_a_run_with_shortened_passes_goes_on_where_it_was(tmp_path):
    def run(trainer, **arguments):
        trainer.fit(Shuffled(), Shuffled(), limit_batches=3, **arguments)
        return seen_by(trainer)

    whole = run(small_trainers.make(seed=2), max_steps=8)
    half = small_trainers.make(seed=2)
    run(half, max_steps=4)
    half.save_checkpoint(tmp_path / "c.npz")
    np.testing.assert_equal(run(small_trainers.make(seed=2), max_steps=8, resume_from=tmp_path / "c.npz"), whole)
