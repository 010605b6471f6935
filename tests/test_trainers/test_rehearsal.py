"""A rehearsal changes what fit() does in this process until its block ends, and nothing else."""

import threading

from jboat import BilevelTrainer
from jboat.callbacks import CSVLogger, ModelCheckpoint
from jboat.trainers.rehearsal import STEPS, rehearsal
import pytest
from small_trainers import make


def test_fits_are_short_in_any_thread_and_in_subclasses_and_whole_afterwards():
    class Own(BilevelTrainer):
        def fit(self, *args, **kwargs):
            return super().fit(*args, **{**kwargs, "max_steps": 7})

    inside, rows = vars(BilevelTrainer)["fit"], []
    with rehearsal():
        assert vars(BilevelTrainer)["fit"] is inside
        thread = threading.Thread(target=lambda: rows.append(make().fit({}, {}, max_epochs=9).rows))
        thread.start()
        rows.append(make(trainer_class=Own).fit({}, {}).rows)
        thread.join()
    assert [len(r) for r in rows] == [STEPS, STEPS]
    assert len(make(trainer_class=Own).fit({}, {}).rows) == 7


def test_it_evaluates_at_once_and_writes_no_file(tmp_path):
    trainer = make(CSVLogger(tmp_path / "log"), ModelCheckpoint(tmp_path / "kept", every_n_steps=1))
    with rehearsal():
        trainer.fit({}, {}, max_steps=1000, val_loader={}, val_every=500, resume_from="last")
    assert len(trainer.history["val_ul_loss"]) == STEPS
    assert list(tmp_path.iterdir()) == []


def test_an_exception_ends_it():
    with pytest.raises(LookupError), rehearsal():
        raise LookupError
    assert len(make().fit({}, {}, max_steps=5).rows) == 5
