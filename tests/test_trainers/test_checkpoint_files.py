"""Checkpoint files: what they hold, and what is done about damaged, foreign and hostile ones."""

import json
import logging
import os
import tracemalloc
import zipfile

from hostile_files import HOSTILE, document, forged, npy
from jboat.callbacks import LambdaCallback, ModelCheckpoint
from jboat.trainers.persistence import archive
from jboat.trainers.persistence.checkpoint import CheckpointError, DamagedCheckpointError
import numpy as np
import pytest
import small_trainers

TREE = {
    "numbers": [1, 2.5, -1e300, True, None, float("inf")],
    "text": "häh?",
    "arrays": {"f4": np.arange(6, dtype="float32").reshape(2, 3), "i8": np.array([2**40]), "0d": np.array(1.5)},
    "empty": [{}, []],
}


def make(folder, *, lr=0.1, lower_iters=2, callbacks=(), **checkpoint):
    saver = ModelCheckpoint(folder, **{"every_n_steps": 1, **checkpoint})
    return small_trainers.make(*callbacks, saver, ll_lr=lr, lower_iters=lower_iters)


def test_a_tree_comes_back_as_it_was_and_numpy_reads_it(tmp_path):
    path = tmp_path / "tree.npz"
    archive.write(path, TREE)
    np.testing.assert_equal(archive.read(path), TREE)
    with np.load(path, allow_pickle=False) as arrays:
        assert json.loads(arrays["document"].tobytes())["format"] == archive.FORMAT_VERSION
    assert [p.name for p in tmp_path.iterdir()] == ["tree.npz"]


@pytest.mark.parametrize("value", [object(), np.array([object()]), np.array(["text"]), {1: 2}, {"__array__": 0}, b"x"])
def test_what_cannot_be_stored_is_refused_before_the_file_is_touched(value, tmp_path):
    path = tmp_path / "tree.npz"
    archive.write(path, {})
    before = path.read_bytes()
    with pytest.raises(TypeError, match="cannot store"):
        archive.write(path, {"value": value})
    assert path.read_bytes() == before


def test_every_flipped_bit_and_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "tree.npz"
    archive.write(path, TREE)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in [0, len(content) - 1, *rng.integers(0, len(content), 300)]:
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(archive.ArchiveError, match=r"tree\.npz"):
            archive.read(path)
    for length in [0, 1, 65, 66, 67, len(content) // 2, len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(archive.ArchiveError, match=r"tree\.npz"):
            archive.read(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.npz"
    path.write_bytes(forged(HOSTILE[name]))
    tracemalloc.start()
    with pytest.raises(archive.ArchiveError, match=r"evil\.npz"):
        archive.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20
    assert not (tmp_path / "executed").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.npz"]


def test_a_zip_bomb_is_refused_without_being_unpacked(tmp_path):
    path = tmp_path / "bomb.npz"
    entries = [("document.npy", document()), ("array_0.npy", npy(np.zeros(1 << 26, np.uint8)))]
    path.write_bytes(forged(entries, zipfile.ZIP_DEFLATED))
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    with pytest.raises(archive.ArchiveError, match="claim more bytes than the file has"):
        archive.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_a_newer_format_is_refused_with_advice(tmp_path):
    path = tmp_path / "new.npz"
    path.write_bytes(forged([("document.npy", document(format=2))]))
    with pytest.raises(archive.ArchiveError, match=r"new\.npz has checkpoint format 2; .* reads format 1.*upgrade"):
        archive.read(path)


def test_another_configuration_is_refused_with_the_differences(tmp_path):
    make(tmp_path).fit({}, {}, max_steps=1)
    other = make(tmp_path, lr=0.2, lower_iters=3)
    before = other.values()
    with pytest.raises(CheckpointError) as caught:
        other.load_checkpoint(tmp_path / "last.npz")
    message = str(caught.value)
    assert "last.npz was saved by a run of another configuration" in message
    assert "lower_iters was 2 and is 3" in message
    assert "ll_optimizer.lr was 0.1 and is 0.2" in message
    np.testing.assert_equal(other.values(), before)


def test_a_sound_file_that_is_no_checkpoint_is_refused(tmp_path):
    archive.write(tmp_path / "tree.npz", TREE)
    with pytest.raises(CheckpointError, match=r"tree\.npz does not fit this trainer"):
        make(tmp_path).load_checkpoint(tmp_path / "tree.npz")
    with pytest.raises(DamagedCheckpointError, match=r"gone\.npz cannot be read"):
        make(tmp_path).load_checkpoint(tmp_path / "gone.npz")


def test_last_falls_back_to_the_previous_good_one_and_says_so(tmp_path, caplog):
    make(tmp_path, save_top_k=3).fit({}, {}, max_steps=4)
    newest = tmp_path / "step-00000004.npz"
    newest.write_bytes(newest.read_bytes()[:-100])  # last.npz is another name of it
    trainer = make(tmp_path, save_top_k=3)
    with caplog.at_level(logging.INFO, "jboat"):
        trainer.fit({}, {}, max_steps=3, resume_from="last")
    assert trainer.state.step == 3
    assert caplog.text.count("trying the one before it") == 2
    assert "resumed from" in caplog.text
    assert "step-00000003.npz" in caplog.text


def test_none_readable_is_an_error(tmp_path):
    make(tmp_path).fit({}, {}, max_steps=1)
    for path in tmp_path.iterdir():
        path.write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints"):
        make(tmp_path).fit({}, {}, resume_from="last")


class FullDiskError(OSError):
    pass


@pytest.fixture
def disk(monkeypatch):
    """Makes writing fail half way through a file from the moment ``disk.full`` is set."""

    class Disk:
        full = False

    real = os.fsync

    def fsync(handle):
        if Disk.full:
            os.ftruncate(handle, 100)
            raise FullDiskError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    return Disk


@pytest.mark.parametrize("on_error", ["raise", "continue"])
def test_a_full_disk(on_error, tmp_path, disk, caplog):
    def fill(trainer, state):
        disk.full = state.step >= 2

    trainer = make(tmp_path, on_error=on_error, callbacks=[LambdaCallback(on_step_start=fill)])
    if on_error == "raise":
        with pytest.raises(OSError, match=r"checkpoint of step 3 could not be written to .*No space left"):
            trainer.fit({}, {}, max_steps=4)
    else:
        trainer.fit({}, {}, max_steps=4)
        assert trainer.state.step == 4
        assert caplog.text.count("training goes on") == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.npz", "step-00000002.npz"]
    for name in ("last.npz", "step-00000002.npz"):
        fresh = make(tmp_path, on_error=on_error)
        fresh.load_checkpoint(tmp_path / name)
        assert fresh.state.step == 2
