"""What a checkpoint restores is what it is compared by; ``"last"`` and ``"best"`` among several ModelCheckpoints."""

import os

from jboat.callbacks import LRSchedule, ModelCheckpoint
from jboat.trainers.persistence import archive
from jboat.trainers.persistence.checkpoint import CheckpointError
import jittor as jt
import numpy as np
from problems import Quadratic
import pytest
import small_trainers


def make(*savers, group=None, schedule=None, level="ul"):
    ul_model, ll_model = Quadratic().models()
    optimizers = {}
    for name, model in (("ll", ll_model), ("ul", ul_model)):
        params = list(model.parameters())
        own = [{"params": params, **group}] if group and name == level else params
        optimizers[f"{name}_optimizer"] = jt.optim.SGD(own, 0.3 if name == "ul" else 0.1)
    schedules = [] if schedule is None else [LRSchedule(schedule(optimizers["ul_optimizer"]))]
    return small_trainers.make(*savers, *schedules, ll_model=ll_model, ul_model=ul_model, **optimizers)


def every_step(folder):
    return ModelCheckpoint(folder, every_n_steps=1)


@pytest.mark.parametrize("level", ["ll", "ul"])
@pytest.mark.parametrize(("name", "before", "now"), [("lr", 0.3, 0.01), ("momentum", 0.5, 0.9), ("lr", 0.3, None)])
def test_numbers_of_a_parameter_group_are_compared(level, name, before, now, tmp_path):
    make(every_step(tmp_path), group={name: before}, level=level).fit({}, {}, max_steps=1)
    other = make(every_step(tmp_path), group={} if now is None else {name: now}, level=level)
    values = other.values()
    if now is None:
        with pytest.raises(CheckpointError, match=f"{level}_optimizer.groups.0.{name} was {before} and is 'absent'"):
            other.fit({}, {}, max_steps=3, resume_from="last")
    else:
        with pytest.raises(CheckpointError, match=f"{level}_optimizer.groups.0.{name} was {before} and is {now}"):
            other.fit({}, {}, max_steps=3, resume_from="last")
    np.testing.assert_equal(other.values(), values)


def cosine(period):
    return lambda optimizer: jt.lr_scheduler.CosineAnnealingLR(optimizer, T_max=period)


def test_the_arguments_of_a_scheduler_are_compared(tmp_path):
    make(every_step(tmp_path), schedule=cosine(7)).fit({}, {}, max_steps=2)
    with pytest.raises(CheckpointError, match=r"schedules.LRSchedule\(upper\).T_max was 7 and is 9"):
        make(every_step(tmp_path), schedule=cosine(9)).fit({}, {}, max_steps=4, resume_from="last")
    whole = make(schedule=cosine(7))
    whole.fit({}, {}, max_steps=4)
    resumed = make(every_step(tmp_path), schedule=cosine(7))
    resumed.fit({}, {}, max_steps=4, resume_from="last")
    assert resumed.history["ul_lr"] == whole.history["ul_lr"]


def test_a_schedule_may_come_and_go(tmp_path):
    make(every_step(tmp_path)).fit({}, {}, max_steps=2)
    make(every_step(tmp_path), schedule=cosine(7)).fit({}, {}, max_steps=3, resume_from="last")
    resumed = make(every_step(tmp_path))
    resumed.fit({}, {}, max_steps=4, resume_from="last")
    assert resumed.state.step == 4


def test_older_files_without_groups_are_taken(tmp_path):
    trainer = make(group={"lr": 0.2})
    trainer.fit({}, {}, max_steps=1)
    trainer.save_checkpoint(tmp_path / "new.npz")
    tree = archive.read(tmp_path / "new.npz")
    for level in ("ll", "ul"):
        del tree["configuration"][f"{level}_optimizer"]["groups"]
    del tree["configuration"]["schedules"]
    archive.write(tmp_path / "old.npz", tree)
    other = make(group={"lr": 0.2})
    other.load_checkpoint(tmp_path / "old.npz")
    np.testing.assert_equal(other.values(), trainer.values())


def savers(folder):
    return (
        ModelCheckpoint(folder / "a", monitor="ul_loss", every_n_steps=5),
        ModelCheckpoint(folder / "b", every_n_steps=1),
    )


def test_last_is_the_newest_of_all_folders(tmp_path):
    make(*savers(tmp_path)).fit({}, {}, max_steps=8)
    whole = make()
    whole.fit({}, {}, max_steps=9)
    resumed = make(*savers(tmp_path))
    resumed.fit({}, {}, max_steps=9, resume_from="last")
    np.testing.assert_equal(resumed.values(), whole.values())
    for path in (tmp_path / "b").glob("*.npz"):
        path.write_bytes(b"rubbish")
    os.utime(tmp_path / "a" / "last.npz")
    fallen = make(*savers(tmp_path))
    fallen.fit({}, {}, max_steps=6, resume_from="last")
    np.testing.assert_equal(fallen.history["ul_loss"], whole.history["ul_loss"][:6])


def test_best_is_that_of_the_one_with_a_metric(tmp_path):
    plain, monitored = ModelCheckpoint(tmp_path / "a", every_n_steps=1), savers(tmp_path / "c")[0]
    make(plain, monitored).fit({}, {}, max_steps=5)
    resumed = make(ModelCheckpoint(tmp_path / "a", every_n_steps=1), savers(tmp_path / "c")[0])
    resumed.fit({}, {}, max_steps=6, resume_from="best")
    assert resumed.state.step == 6
    two = [ModelCheckpoint(tmp_path / name, monitor=name, every_n_steps=1) for name in ("ul_loss", "ll_loss")]
    with pytest.raises(ValueError, match=r"resume_from='best' could mean .*ul_loss/best\.npz, .*ll_loss/best\.npz"):
        make(*two).fit({}, {}, max_steps=6, resume_from="best")


def test_no_checkpoint_in_any_folder_starts_afresh(tmp_path, caplog):
    trainer = make(*savers(tmp_path))
    trainer.fit({}, {}, max_steps=1, resume_from="last")
    assert f"no checkpoint in {tmp_path / 'a'}, {tmp_path / 'b'} yet" in caplog.text
