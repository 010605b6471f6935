"""A Ctrl-C outside fit and a child that is killed are the program's own affair, as without Jittor."""

import signal
import subprocess
import sys

from jboat.backend import signal_actions
import pytest

PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background programs ignore it
import jboat, os, subprocess, sys, time
import jittor as jt
{text}
print("on")
"""
CTRL_C = """
try:
    jt.ones(3).sum().item()
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)
except KeyboardInterrupt:
    print("interrupted")
"""
OWN_HANDLER = """
signal.signal(signal.SIGINT, lambda number, frame: print("handled"))
os.kill(os.getpid(), signal.SIGINT)
"""
TIMEOUT = """
try:
    subprocess.run([sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.1)
except subprocess.TimeoutExpired:
    print("too slow")
"""
STOPPED = """
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
os.kill(child.pid, signal.SIGSTOP)
time.sleep(0.2)
os.kill(child.pid, signal.SIGCONT)
child.kill()
print(child.wait())
"""
WORKERS = """
from jittor.dataset import Dataset
class Slow(Dataset):
    def __init__(self):
        super().__init__(batch_size=2, num_workers=1)
        self.set_attrs(total_len=1000)
    def __getitem__(self, index):
        if index == LAST:
            os.kill(os.getpid(), signal.SIGKILL)  # as a system without memory does
        return index
data = Slow()
for batch in data:
    pass
"""
WORKERS_AND_TIMEOUT = WORKERS.replace("LAST", "-1") + "data.terminate()" + TIMEOUT
OWN_CHILD_HANDLER = (
    WORKERS.replace("LAST", "-1")
    + """
ended = []
signal.signal(signal.SIGCHLD, lambda number, frame: ended.append(number))
data.terminate()
for worker in data.workers:
    worker.p.join()
ended.clear()
subprocess.run([sys.executable, "-c", ""])
print(len(ended))
"""
)
NO_WORKERS = (
    WORKERS.partition("for batch")[0]
    + """
import jittor.dataset.dataset
def full(*args, **kwargs): raise OSError("No space left on device")
jittor.dataset.dataset.mp.Array = full
try:
    next(iter(data))
except OSError:
    pass
"""
    + TIMEOUT
)


def run(text):
    return subprocess.run([sys.executable, "-c", PROGRAM.format(text=text)], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (CTRL_C, "interrupted"),
        (OWN_HANDLER, "handled"),
        (TIMEOUT, "too slow"),
        (STOPPED, "-9"),
        (WORKERS_AND_TIMEOUT, "too slow"),
        (OWN_CHILD_HANDLER, "1"),
        (NO_WORKERS, "too slow"),
    ],
)
def test_the_program_goes_on(text, said):
    done = run(text)
    assert done.stdout.split("\n") == [said, "on", ""], done.stderr
    assert done.returncode == 0


def test_a_killed_worker_of_a_dataset_ends_the_program_instead_of_being_waited_for():
    done = run(WORKERS.replace("LAST", "8"))
    assert done.returncode == 1
    assert "Caught SIGCHLD" in done.stderr


def test_what_a_block_changes_is_undone_and_told():
    before = signal_actions.action(signal.SIGCHLD)
    with signal_actions.kept() as changed:
        signal_actions.set_action(signal.SIGCHLD, signal_actions.action(signal.SIGSEGV))  # one of Jittor's, in C
    assert bytes(changed[signal.SIGCHLD])[:8] == bytes(signal_actions.action(signal.SIGSEGV))[:8]
    assert bytes(signal_actions.action(signal.SIGCHLD))[:8] == bytes(before)[:8]
