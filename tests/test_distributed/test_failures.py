"""What ends one rank ends all, within 30 seconds and with its message; what all raise is told once."""

from concurrent.futures import ThreadPoolExecutor
import os
from pathlib import Path
import time

import pytest

WAYS = ("raised", "caught", "outside", "left", "killed", "everywhere", "alone", "within")


def failed(run, folder, way):
    """A program that fails, whose processes have to be gone afterwards; the seconds that this took, and its folder."""
    done = run(2, "failures.py", way, folder)
    seconds = time.time() - float((folder / "failed_at").read_text()) if (folder / "failed_at").exists() else 0.0
    assert done.returncode != 0
    assert (folder / "pid 0").exists(), done.stderr[-4000:]
    until = time.monotonic() + 10
    while running := [rank for rank in range(2) if is_running((folder / f"pid {rank}").read_text())]:
        assert time.monotonic() < until, running
        time.sleep(0.1)
    return done, seconds, folder


@pytest.fixture(scope="module")
def ended(run, tmp_path_factory):
    """What each way to fail has led to; several at a time, since each waits for most of its time."""
    with ThreadPoolExecutor(3) as pool:
        waiting = {way: pool.submit(failed, run, tmp_path_factory.mktemp(way), way) for way in WAYS}
    return {way: future.result() for way, future in waiting.items()}


def is_running(pid):
    """Whether there is such a process, and it has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_rank_that_is_killed_ends_all(ended):
    done, seconds, _ = ended["killed"]
    assert seconds < 30
    assert "exited on signal 9" in done.stderr


@pytest.mark.parametrize("way", ["raised", "caught"])
def test_what_one_rank_raises_ends_all_with_its_message(ended, way):
    done, seconds, folder = ended[way]
    assert seconds < 30
    assert done.stderr.count("OSError: no space left for rank 1") == 1
    assert "rank 1 of 2 failed alone, which ends the others" in done.stderr
    assert (folder / "torn down 1").exists()


def test_what_one_rank_raises_outside_of_fit_ends_all_too(ended):
    done = ended["outside"][0]
    assert done.stderr.count("OSError: no space left for rank 1") == 1
    assert "rank 1 of 2 failed alone" in done.stderr


def test_a_rank_that_leaves_with_a_message_ends_all(ended):
    done = ended["left"][0]
    assert "no data for rank 1" in done.stderr
    assert "rank 1 of 2 failed alone" in done.stderr


@pytest.mark.parametrize("way", ["alone", "within"])
def test_what_one_rank_calls_alone_ends_all(ended, way):
    done, seconds, _ = ended[way]
    assert seconds < 30
    assert done.stderr.count("RuntimeError: evaluate() has to be called by all ranks, but was not by rank 1") == 1


def test_what_all_raise_is_told_once(ended):
    done, _, folder = ended["everywhere"]
    assert done.stderr.count("ValueError: ll_loader gave a batch of 1 samples, and there are 2 ranks") == 1
    assert "failed alone" not in done.stderr
    assert [(folder / f"torn down {rank}").exists() for rank in range(2)] == [True, True]


@pytest.mark.parametrize("missing", [{"mpicc_path": ""}, {"mpicc_path": "/nowhere/mpicc"}, {"use_mpi": "0"}])
def test_without_jittors_mpi_rank_0_says_what_is_missing(run, tmp_path, missing):
    done = run(2, "failures.py", "everywhere", tmp_path, **missing)
    assert done.returncode != 0
    assert done.stderr.count("RuntimeError: mpirun has started 2 processes, but Jittor") == 1
    assert not os.listdir(tmp_path)
