"""A logger that cannot write says which file it was."""

import errno
import io
import os
import pathlib

from jboat.callbacks import CSVLogger, CurvePlotter, JSONLLogger, TensorBoardLogger
import pytest
from small_trainers import make


class FullFile(io.StringIO):
    """A file on a full disk: what is written waits, and cannot leave."""

    def flush(self):
        raise OSError(errno.ENOSPC, "No space left on device")

    def close(self):
        super().close()
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("logger", "name"), [(CSVLogger, "metrics.csv"), (JSONLLogger, "metrics.jsonl")])
@pytest.mark.parametrize("flush_seconds", [0.0, 1e9])
def test_a_full_disk_names_the_file_of_a_row_logger(logger, name, flush_seconds, tmp_path, monkeypatch):
    monkeypatch.setattr(pathlib.Path, "open", lambda path, *args, **kwargs: FullFile())
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path / name}'") as caught:
        make(logger(tmp_path, flush_seconds=flush_seconds)).fit({}, {}, max_steps=3)
    assert caught.value.errno == errno.ENOSPC


def test_a_full_disk_names_the_event_file(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def flush(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tensorboardX.record_writer.open_file", lambda path: Full())
    with pytest.raises(OSError, match=rf"No space left on device: '{tmp_path}/events\.out\.tfevents"):
        make(TensorBoardLogger(tmp_path)).fit({}, {}, max_steps=1)


def test_a_full_disk_names_the_picture(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/curves.png'"):
        make(CurvePlotter(tmp_path)).fit({}, {}, max_steps=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("logger", [CSVLogger, JSONLLogger, TensorBoardLogger])
def test_a_folder_that_cannot_be_is_named(logger, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match=f"{tmp_path}/file"):
        make(logger(tmp_path / "file" / "log")).fit({}, {}, max_steps=1)


@pytest.mark.parametrize("logger", [CSVLogger, JSONLLogger, TensorBoardLogger])
def test_one_logger_is_enough_for_a_logger_dir(logger, tmp_path):
    trainer = make(logger(), logger_dir=tmp_path)
    trainer.fit({}, {}, max_steps=1)
    (made,) = tmp_path.iterdir()
    assert made.name.startswith({CSVLogger: "metrics.csv", JSONLLogger: "metrics.jsonl"}.get(logger, "events"))
