"""What ends one rank ends all, within 30 seconds and with its message; what all raise is told once."""

import os
from pathlib import Path
import time

import pytest


def failed(run, folder, way):
    """A program that fails, all of whose processes have to be gone afterwards; and the seconds that this took."""
    done = run(2, "failures.py", way, folder)
    seconds = time.time() - float((folder / "failed_at").read_text()) if (folder / "failed_at").exists() else 0.0
    assert done.returncode != 0
    assert (folder / "pid 0").exists(), done.stderr[-4000:]
    until = time.monotonic() + 10
    while running := [rank for rank in range(2) if is_running((folder / f"pid {rank}").read_text())]:
        assert time.monotonic() < until, running
        time.sleep(0.1)
    return done, seconds


def is_running(pid):
    """Whether there is such a process, and it has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_rank_that_is_killed_ends_all(run, tmp_path):
    done, seconds = failed(run, tmp_path, "killed")
    assert seconds < 30
    assert "exited on signal 9" in done.stderr


@pytest.mark.parametrize("way", ["raised", "caught"])
def test_what_one_rank_raises_ends_all_with_its_message(run, tmp_path, way):
    done, seconds = failed(run, tmp_path, way)
    assert seconds < 30
    assert done.stderr.count("OSError: no space left for rank 1") == 1
    assert "rank 1 of 2 failed alone, which ends the others" in done.stderr
    assert (tmp_path / "torn down 1").exists()


def test_what_one_rank_raises_outside_of_fit_ends_all_too(run, tmp_path):
    done, _ = failed(run, tmp_path, "outside")
    assert done.stderr.count("OSError: no space left for rank 1") == 1
    assert "rank 1 of 2 failed alone" in done.stderr


def test_a_rank_that_leaves_with_a_message_ends_all(run, tmp_path):
    done, _ = failed(run, tmp_path, "left")
    assert "no data for rank 1" in done.stderr
    assert "rank 1 of 2 failed alone" in done.stderr


def test_what_all_raise_is_told_once(run, tmp_path):
    done, _ = failed(run, tmp_path, "everywhere")
    assert done.stderr.count("ValueError: ll_loader gave a batch of 1 samples, and there are 2 ranks") == 1
    assert "failed alone" not in done.stderr
    assert [(tmp_path / f"torn down {rank}").exists() for rank in range(2)] == [True, True]


@pytest.mark.parametrize("missing", [{"mpicc_path": ""}, {"mpicc_path": "/nowhere/mpicc"}, {"use_mpi": "0"}])
def test_without_jittors_mpi_rank_0_says_what_is_missing(run, tmp_path, missing):
    done = run(2, "failures.py", "everywhere", tmp_path, **missing)
    assert done.returncode != 0
    assert done.stderr.count("RuntimeError: mpirun has started 2 processes, but Jittor") == 1
    assert not os.listdir(tmp_path)
