"""TensorBoard shows every step once, read back by its own reader."""

from jboat.callbacks import Callback, LambdaCallback, ModelCheckpoint, TensorBoardLogger
import pytest
import small_trainers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def make(folder, *callbacks, every=1, **logger):
    saver = ModelCheckpoint(folder / "m", every_n_steps=every, save_top_k=-1)
    return small_trainers.make(TensorBoardLogger(folder, **logger), saver, *callbacks)


def scalars(folder, tag="loss/ul_loss"):
    return EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload().Scalars(tag)


def steps(folder, tag="loss/ul_loss"):
    return [event.step for event in scalars(folder, tag)]


class CrashError(Exception):
    pass


def crash_before(step):
    def crash(trainer, state):
        if state.step == step:
            raise CrashError

    return LambdaCallback(on_step_start=crash)


@pytest.mark.parametrize("flush_seconds", [0.0, 1e9])
def test_steps_that_are_repeated_are_shown_once(flush_seconds, tmp_path):
    limits = {"max_steps": 8, "val_loader": {}, "val_every": 2}
    first = make(tmp_path, crash_before(6), every=4, flush_seconds=flush_seconds)
    with pytest.raises(CrashError):
        first.fit({}, {}, **limits)
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6]
    resumed = make(tmp_path, every=4, flush_seconds=flush_seconds)
    history = resumed.fit({}, {}, **limits, resume_from="last")
    assert [(e.step, e.value) for e in scalars(tmp_path)] == [
        (row["step"], pytest.approx(row["ul_loss"])) for row in history
    ]
    assert steps(tmp_path, "loss/val_ul_loss") == [2, 4, 6, 8]


def test_what_a_killed_run_had_not_written_is_not_missing(tmp_path):
    class Kill(Callback):
        """Ends the run as a ``kill -9`` would: what waits in memory is lost."""

        rank = 3

        def on_step_end(self, trainer, state):
            if state.step == 5:
                logger = next(c for c in trainer.callbacks.callbacks if isinstance(c, TensorBoardLogger))
                logger._waiting = []
                raise CrashError

    with pytest.raises(CrashError):
        make(tmp_path, Kill(), every=2, flush_seconds=1e9).fit({}, {}, max_steps=8, val_loader={}, val_every=1)
    assert steps(tmp_path) == [1, 2, 3, 4]  # the last checkpoint is of step 4
    resumed = make(tmp_path, every=2, flush_seconds=1e9)
    history = resumed.fit({}, {}, max_steps=8, val_loader={}, val_every=1, resume_from="last")
    assert steps(tmp_path) == steps(tmp_path, "loss/val_ul_loss") == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [e.value for e in scalars(tmp_path)] == pytest.approx(history["ul_loss"])


def test_an_evaluation_that_is_made_up_for_is_shown_once(tmp_path):
    def fail(trainer, state):
        if state.step == 4:
            raise CrashError

    logger = {"flush_seconds": 0.0}
    crash = LambdaCallback(on_evaluate_end=fail)
    crash.rank = 3
    with pytest.raises(CrashError):  # the checkpoint of step 4 is there, and its evaluation has been logged
        make(tmp_path, crash, **logger).fit({}, {}, max_steps=6, val_loader={}, val_every=2)
    assert steps(tmp_path, "loss/val_ul_loss") == [2, 4]
    make(tmp_path, **logger).fit({}, {}, max_steps=6, val_loader={}, val_every=2, resume_from="last")
    assert steps(tmp_path, "loss/val_ul_loss") == [2, 4, 6]
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_histograms_and_one_step_in_n(tmp_path):
    logger = {"every_n_steps": 2, "histograms": 2}
    with pytest.raises(CrashError):
        make(tmp_path, crash_before(7), every=4, **logger).fit({}, {}, max_steps=8)
    make(tmp_path, every=4, **logger).fit({}, {}, max_steps=8, resume_from="last")
    assert steps(tmp_path) == [2, 4, 6, 8]
    events = EventAccumulator(str(tmp_path), size_guidance={"histograms": 0}).Reload()
    assert [e.step for e in events.Histograms("upper_variables/value")] == [2, 4, 6, 8]


def test_load_checkpoint_and_fit_after_fit_go_on(tmp_path):
    make(tmp_path, every=2).fit({}, {}, max_steps=5)
    other = make(tmp_path, every=2)
    other.load_checkpoint(tmp_path / "m" / "step-00000002.npz")
    other.fit({}, {}, max_steps=3)
    assert steps(tmp_path) == [1, 2, 3]
    other.fit({}, {}, max_steps=2)
    assert steps(tmp_path) == [1, 2, 3, 4, 5]


def test_a_new_run_in_an_old_folder_replaces_it(tmp_path):
    make(tmp_path).fit({}, {}, max_steps=5)
    make(tmp_path).fit({}, {}, max_steps=2)
    assert steps(tmp_path) == [1, 2]
