"""Ctrl-C, ``kill -9``, and what is left behind."""

import contextlib
import os
from pathlib import Path
import signal
import subprocess
import sys
import threading
import time

from jboat.callbacks import LambdaCallback, ModelCheckpoint
from jboat.trainers.persistence import archive
import numpy as np
import pytest
import small_trainers


class Worker:
    """The forking process of kill_worker.py."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("kill_worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start(self, folder):
        self.process.stdin.write(f"{folder}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def status(self):
        return int(self.process.stdout.readline())

    def run(self, folder):
        self.start(folder)
        return self.status()


@pytest.fixture
def worker():
    made = Worker()
    yield made
    made.process.stdin.close()
    made.process.wait()


def wait_for_a_checkpoint(folder):
    last = time.perf_counter() + 60
    while not any(folder.glob("step-*.npz")) and not (folder / "result").exists() and time.perf_counter() < last:
        time.sleep(0.001)


@pytest.mark.parametrize("kills", [10, pytest.param(50, marks=pytest.mark.long)])
def test_kill_dash_nine_at_random_moments(kills, worker, tmp_path):
    whole = tmp_path / "whole"
    assert worker.run(tmp_path / "warm-up") == 0
    durations = []
    for folder in (tmp_path / "timed", tmp_path / "timed again", whole):
        begun = time.perf_counter()
        assert worker.run(folder) == 0
        durations.append(time.perf_counter() - begun)
    duration = min(durations)
    rng = np.random.default_rng(0)
    killed = runs = resumed = 0
    while killed < kills:
        folder = tmp_path / f"run-{runs}"
        runs += 1
        reached = 0
        while not (folder / "result").exists():
            resumed += any(folder.glob("step-*.npz"))
            child = worker.start(folder)
            if killed < kills and rng.random() < 0.8:
                if runs % 2:  # of the others no kill may come so late where the machine is busier than it was
                    wait_for_a_checkpoint(folder)
                time.sleep(rng.uniform(0, duration / (4 if runs % 2 else 1)))
                with contextlib.suppress(ProcessLookupError):  # it may have just finished
                    os.kill(child, signal.SIGKILL)
            status = worker.status()
            killed += status == signal.SIGKILL
            assert status in (0, signal.SIGKILL)
            saved = [archive.read(path)["state"]["step"] for path in folder.glob("step-*.npz")]
            if reached or saved:
                last = archive.read(folder / "last.npz")["state"]["step"] if (folder / "last.npz").exists() else 0
                assert last >= reached
                assert max(saved) - last in (0, 1)
                reached = last
        assert (folder / "result").read_text() == (whole / "result").read_text()
    assert resumed >= kills // 10


def make(folder, callbacks=()):
    return small_trainers.make(*callbacks, ModelCheckpoint(folder, every_n_steps=100), lower_iters=3)


def press_ctrl_c(trainer, state):
    if (state.step, state.inner_step) == (1, 2):
        signal.raise_signal(signal.SIGINT)


def test_one_ctrl_c_finishes_the_step_saves_and_is_raised(tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    trainer = make(tmp_path, [LambdaCallback(on_lower_step_end=press_ctrl_c)])
    with pytest.raises(KeyboardInterrupt):
        trainer.fit({}, {}, max_steps=10)
    assert trainer.state.step == 2
    assert signal.getsignal(signal.SIGINT) is handler
    resumed = make(tmp_path)
    resumed.fit({}, {}, max_steps=3, resume_from="last")
    whole = make(tmp_path / "whole")
    whole.fit({}, {}, max_steps=3)
    np.testing.assert_equal(resumed.values(), whole.values())


def test_a_second_ctrl_c_is_raised_at_once(tmp_path):
    def twice(trainer, state):
        press_ctrl_c(trainer, state)
        press_ctrl_c(trainer, state)

    trainer = make(tmp_path, [LambdaCallback(on_lower_step_end=twice)])
    with pytest.raises(KeyboardInterrupt):
        trainer.fit({}, {}, max_steps=10)
    assert trainer.state.step == 1
    assert trainer.state.inner_step == 2


def test_fit_works_in_another_thread(tmp_path):
    trainer = make(tmp_path)
    thread = threading.Thread(target=lambda: trainer.fit({}, {}, max_steps=2))
    thread.start()
    thread.join()
    assert trainer.state.step == 2
