"""Files are whole or not there, have the mode of the umask, and killed writers leave nothing for good."""

import errno
import os
import re
import stat
import subprocess
import sys

from jboat.callbacks import scratch_file
from jboat.callbacks.scratch_file import remove_leftovers, second_name
from jboat.trainers.persistence.atomic_file import atomic_file
import pytest

WRITER = """
import os, signal, sys
from jboat.callbacks.scratch_file import scratch_file
from pathlib import Path
signal.signal(signal.SIGTERM, signal.SIG_DFL)
with scratch_file(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    sys.stdin.readline()
"""


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_has_the_mode_of_the_umask(mask, mode, tmp_path):
    before = os.umask(mask)
    try:
        with atomic_file(tmp_path / "file") as file:
            file.write("content")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


def test_two_writers_of_one_file_at_once_do_not_meet(tmp_path):
    path = tmp_path / "file"
    with atomic_file(path) as one, atomic_file(path) as other:
        one.write("one" * 1000)
        other.write("other")
        assert len(names(tmp_path)) == 2
        assert all(str(os.getpid()) in name for name in names(tmp_path))
    assert path.read_text() == "one" * 1000  # which ended last
    assert names(tmp_path) == ["file"]


def test_the_scratch_file_of_a_killed_writer_is_removed_and_that_of_a_living_one_stays(tmp_path):
    path = tmp_path / "file"
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "writing\n"
    (scratch,) = names(tmp_path)
    assert re.fullmatch(rf"\.file\.{process.pid}-[0-9a-f]+\.tmp", scratch)
    with atomic_file(path) as file:
        file.write("mine")
    assert names(tmp_path) == [scratch, "file"]
    process.kill()
    process.wait()
    with atomic_file(path) as file:
        file.write("mine again")
    assert names(tmp_path) == ["file"]
    assert path.read_text() == "mine again"


def test_only_leftovers_of_the_files_named_are_removed(tmp_path):
    left = [".last.npz.tmp", ".last.npz.77-ab.tmp", ".step-00000012.npz.k3j_4.tmp"]
    stay = [".other.npz.77-ab.tmp", ".last.npz", "last.npz.tmp", ".step-12.npz.7.tmp", ".step-00000012.npz.77-ab.tmp2"]
    for name in (*left, *stay):
        (tmp_path / name).write_bytes(b"x")
    os.symlink(tmp_path / ".last.npz", tmp_path / ".last.npz.88-cd.tmp")
    remove_leftovers(tmp_path, r"last\.npz|step-[0-9]{8}\.npz")
    assert names(tmp_path) == sorted([*stay, ".last.npz.88-cd.tmp"])


@pytest.mark.parametrize("refusal", [errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV, errno.EMLINK, None])
def test_a_second_name_is_a_link_or_a_copy(refusal, tmp_path, monkeypatch):
    def link(source, target):
        raise OSError(refusal, os.strerror(refusal), source, None, target)

    if refusal is not None:
        monkeypatch.setattr(os, "link", link)
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "b").write_bytes(b"old")
    second_name(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"new"
    assert (tmp_path / "a").samefile(tmp_path / "b") == (refusal is None)
    second_name(tmp_path / "a", tmp_path / "b")  # which a rename of a link to the same file leaves undone
    assert names(tmp_path) == ["a", "b"]


def test_a_full_disk_names_the_file_and_not_the_scratch_file(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "file").write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(OSError, match=f"No space left on device: '{tmp_path / 'file'}'"),
        atomic_file(tmp_path / "file") as file,
    ):
        file.write("new")
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_a_folder_that_cannot_be_written_names_the_file(tmp_path, monkeypatch):
    def refuse(path, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(scratch_file.os, "open", refuse)
    with pytest.raises(OSError, match=f"Permission denied: '{tmp_path / 'file'}'"), atomic_file(tmp_path / "file"):
        pass


def test_no_file_takes_the_place_of_a_pipe_or_a_device(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match=r"not a file.*pipe"), atomic_file(pipe) as file:
        file.write("content")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert names(tmp_path) == ["pipe"]
