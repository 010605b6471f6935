"""Which files a ModelCheckpoint has: beside another in its folder, without hard links, and after a resume elsewhere."""

import errno
import logging
import os
import stat

from jboat.callbacks import Callback, CSVLogger, CurvePlotter, JSONLLogger, ModelCheckpoint, TensorBoardLogger
from jboat.trainers.persistence import archive
import pytest
from small_trainers import make


class Scores(Callback):
    """Publishes given numbers, one a step."""

    def __init__(self, *values):
        self._values = values

    def on_step_end(self, trainer, state):
        state.metrics["score"] = self._values[state.step - 1]


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def step_of(path):
    return archive.read(path)["state"]["step"]


def test_hard_links_refused(tmp_path, monkeypatch):
    def link(source, target):
        raise PermissionError(errno.EPERM, "Operation not permitted", source, None, target)

    monkeypatch.setattr(os, "link", link)
    saver = ModelCheckpoint(tmp_path, monitor="score", every_n_steps=1, save_top_k=2)
    make(Scores(3.0, 1.0, 2.0), saver).fit({}, {}, max_steps=3)
    assert names(tmp_path) == ["best.npz", "last.npz", "step-00000002.npz", "step-00000003.npz"]
    assert (step_of(tmp_path / "best.npz"), step_of(tmp_path / "last.npz")) == (2, 3)
    assert all(path.stat().st_nlink == 1 for path in tmp_path.iterdir())


def test_the_files_have_the_mode_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        make(ModelCheckpoint(tmp_path, monitor="ul_loss", every_n_steps=1)).fit({}, {}, max_steps=1)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}


@pytest.mark.parametrize("reverse", [False, True])
def test_two_in_one_folder_keep_each_others_files(reverse, tmp_path):
    best = ModelCheckpoint(tmp_path, monitor="score", every_n_steps=2, save_top_k=1)
    newest = ModelCheckpoint(tmp_path, every_n_steps=1, save_top_k=2)
    pair = [newest, best] if reverse else [best, newest]
    seen = []

    class Watch(Callback):
        rank = 3

        def on_step_end(self, trainer, state):
            seen.append([int(n[5:13]) for n in names(tmp_path) if n.startswith("step-")])

    make(Scores(5.0, 4.0, 3.0, 2.0, 1.0, 9.0, 9.0, 9.0), *pair, Watch()).fit({}, {}, max_steps=8)
    assert seen == [[1], [1, 2], [2, 3], [3, 4], [4, 5], [4, 5, 6], [4, 6, 7], [4, 7, 8]]
    assert step_of(tmp_path / "best.npz") == 4
    assert step_of(tmp_path / "last.npz") == 8


def test_two_metrics_in_one_folder_have_a_best_each(tmp_path):
    def build():
        low = ModelCheckpoint(tmp_path, monitor="score", every_n_steps=1)
        high = ModelCheckpoint(tmp_path, monitor="score", mode="max", every_n_steps=1, every_n_seconds=1e9)
        return make(Scores(3.0, 1.0, 9.0, 2.0), low, high), low, high

    trainer, low, high = build()
    trainer.fit({}, {}, max_steps=4)
    assert (low.best_file.name, high.best_file.name) == ("best.npz", "best-2.npz")
    assert (step_of(low.best_file), step_of(high.best_file)) == (2, 3)
    assert (low.best_path.name, high.best_path.name) == ("step-00000002.npz", "step-00000003.npz")
    resumed, *_ = build()
    resumed.fit({}, {}, max_steps=2, resume_from=low.best_file)
    assert resumed.state.step == 2


def test_best_looks_where_there_is_a_metric(tmp_path):
    def build():
        scored = ModelCheckpoint(tmp_path / "a", monitor="score", every_n_steps=1)
        return make(Scores(1.0, 2.0, 3.0), ModelCheckpoint(tmp_path / "b", every_n_steps=1), scored)

    build().fit({}, {}, max_steps=3)
    resumed = build()
    resumed.fit({}, {}, max_steps=1, resume_from="best")
    assert resumed.state.step == 1


@pytest.mark.parametrize(
    "build",
    [
        CSVLogger,
        JSONLLogger,
        TensorBoardLogger,
        CurvePlotter,
        lambda folder: ModelCheckpoint(folder, every_n_steps=1),
    ],
)
def test_two_of_a_kind_with_other_folders_are_different(build, tmp_path, monkeypatch):
    trainer = make(build(tmp_path / "a"), build(tmp_path / "b"))
    trainer.fit({}, {}, max_steps=2)
    assert [len(names(tmp_path / folder)) for folder in "ab"] == [len(names(tmp_path / "a"))] * 2
    monkeypatch.chdir(tmp_path)
    for same in (tmp_path / "a", "a", "b/../a"):
        with pytest.raises(ValueError, match="two callbacks have the same key"):
            make(build(tmp_path / "a"), build(same))
    with pytest.raises(ValueError, match="two callbacks have the same key"):
        make(build("a"), CSVLogger(), CSVLogger("runs"), logger_dir="runs")


def test_each_of_two_gets_its_own_state_back(tmp_path):
    def build():
        pair = [ModelCheckpoint(tmp_path / name, every_n_steps=1, save_top_k=k) for name, k in (("a", 1), ("b", 3))]
        return make(*pair), pair

    build()[0].fit({}, {}, max_steps=4)
    trainer, pair = build()
    trainer.fit({}, {}, max_steps=6, resume_from=tmp_path / "b" / "last.npz")
    assert [len(list((tmp_path / name).glob("step-*"))) for name in "ab"] == [1, 3]
    assert [saver.best_path.parent.name for saver in pair] == ["a", "b"]


def test_resumed_into_another_folder_the_best_is_known(tmp_path):
    scores = [3.0, 1.0, 2.0, 1.5, 0.5]
    first = ModelCheckpoint(tmp_path / "a", monitor="score", every_n_steps=1)
    make(Scores(*scores), first).fit({}, {}, max_steps=3)
    second = ModelCheckpoint(tmp_path / "b", monitor="score", every_n_steps=1)
    resumed = make(Scores(*scores), second)
    resumed.fit({}, {}, max_steps=4, resume_from=tmp_path / "a" / "last.npz")
    assert step_of(tmp_path / "b" / "best.npz") == 2
    assert second.best_path == tmp_path / "b" / "best.npz"
    assert step_of(tmp_path / "b" / "last.npz") == 4
    assert names(tmp_path / "a") == ["best.npz", "last.npz", "step-00000002.npz"]  # nothing there is pruned
    third = ModelCheckpoint(tmp_path / "c", monitor="score", every_n_steps=1)
    again = make(Scores(*scores), third)
    again.fit({}, {}, max_steps=4, resume_from=tmp_path / "b" / "last.npz")  # which has no step left to take
    assert step_of(third.best_path) == 2
    again.fit({}, {}, max_steps=1)
    assert step_of(tmp_path / "c" / "best.npz") == 5
    assert third.best_path == tmp_path / "c" / "step-00000005.npz"


def test_files_of_another_run_in_the_new_folder_are_left_alone(tmp_path):
    foreign = make(ModelCheckpoint(tmp_path / "b", every_n_steps=1, save_top_k=-1, save_last=False))
    foreign.fit({}, {}, max_steps=4)
    make(ModelCheckpoint(tmp_path / "a", every_n_steps=1, save_top_k=2)).fit({}, {}, max_steps=4)
    resumed = make(ModelCheckpoint(tmp_path / "b", every_n_steps=1, save_top_k=2))
    resumed.fit({}, {}, max_steps=8, resume_from=tmp_path / "a" / "last.npz")
    assert [int(n[5:13]) for n in names(tmp_path / "b") if n.startswith("step-")] == [1, 2, 3, 4, 7, 8]


def test_a_checkpoint_saved_by_hand_elsewhere_does_not_lose_the_files(tmp_path):
    def build():
        return make(ModelCheckpoint(tmp_path / "a", every_n_steps=1, save_top_k=2))

    trainer = build()
    trainer.fit({}, {}, max_steps=4)
    (tmp_path / "hand").mkdir()
    trainer.save_checkpoint(tmp_path / "hand" / "mine.npz")
    build().fit({}, {}, max_steps=6, resume_from=tmp_path / "hand" / "mine.npz")
    assert names(tmp_path / "a") == ["last.npz", "step-00000005.npz", "step-00000006.npz"]


def test_a_run_that_starts_removes_what_a_killed_one_left(tmp_path, caplog):
    for name in (".last.npz.tmp", ".step-00000012.npz.77-ab12.tmp", ".best-2.npz.77-ab12.tmp", ".notes.tmp"):
        (tmp_path / name).write_bytes(b"half a checkpoint")
    with caplog.at_level(logging.WARNING):
        make(ModelCheckpoint(tmp_path, every_n_steps=1)).fit({}, {}, max_steps=1)
    assert names(tmp_path) == [".notes.tmp", "last.npz", "step-00000001.npz"]
