"""What every test needs: Jittor started by jboat in a home of the tests' own, and a count of compiled kernels.

The home is the folder ``.jittor-lab`` of the repository. Jittor compiles its core and every kernel of the tests there
once; a later run finds them. Several processes may share it (``pytest -n 2``): one compiles at a time, but in the first
run, and all use what is there.
"""

import fcntl
import os
from pathlib import Path
import signal
import subprocess
import sys

# a shell ignores Ctrl-C for what it starts in the background, and an ignored signal stays ignored in fit()
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)

LAB = Path(__file__).parents[1] / ".jittor-lab"
_EMPTY = "JBOAT_TEST_EMPTY_CACHE"
"""Is set in the environment of the workers of a run that has begun without a kernel."""


def _compile_core_twice_at_once():
    """The first start in a home, by two processes that must not disturb each other."""
    LAB.mkdir()
    command = [sys.executable, "-c", "from jboat.backend import start; start.start()"]
    processes = [subprocess.Popen(command) for _ in range(2)]
    if any([process.wait() for process in processes]):
        raise SystemExit("jittor did not start in two processes at once")


_USERS_ENVIRONMENT = dict(os.environ)
os.environ["HOME"] = str(LAB)
os.environ.pop("JITTOR_HOME", None)
WORKER = "PYTEST_XDIST_WORKER" in os.environ
if WORKER:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin take the other process's core
if not LAB.exists():
    _compile_core_twice_at_once()
    os.environ[_EMPTY] = "1"

from jboat import BilevelTrainer, registry  # noqa: E402, F401  (a trainer registers every operator)
import jittor as jt  # noqa: E402
import pytest  # noqa: E402

if WORKER and _EMPTY in os.environ:
    # Jittor's lock lets one process compile at a time, and in a first run both do so most of the time. Without it they
    # may write the same source at once, which a source that is there already is spared.
    jt.flags.disable_lock = 1
    jt.flags.rewrite_op = 0
    jt.flags.use_parallel_op_compiler = 0

jt.flags.use_cuda = int(os.environ.get("JBOAT_TEST_DEVICE") == "cuda")


class LoadedKernels:
    """Kernels that this process has loaded since :meth:`restart`, compiled now or found in the cache."""

    def __init__(self):
        self._folder = os.path.join(jt.flags.cache_path, "jit", "")
        self.restart()

    def _all(self):
        lines = Path("/proc/self/maps").read_text().splitlines()
        return {line.split()[-1] for line in lines if self._folder in line and line.endswith(".so")}

    def restart(self):
        jt.sync_all(True)
        self._before = self._all()

    def new(self, *, pending=True):
        """Their files, those of what is ``pending`` included, or none but what has been computed."""
        if pending:
            jt.sync_all(True)
        return sorted(self._all() - self._before)


@pytest.fixture(scope="session")
def users_environment():
    """The environment that the tests were started in, where pip finds its configuration."""
    return _USERS_ENVIRONMENT


@pytest.fixture
def loaded_kernels():
    return LoadedKernels()


def _locked(name, how):
    """An open file of the home that this process holds a lock on, until it is closed."""
    file = (LAB / name).open("w")
    fcntl.flock(file, how)
    return file


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Run a test beside those of other workers, or without any other where it is marked ``alone``."""
    if not WORKER:
        return (yield)
    how = fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH
    with _locked("turn", fcntl.LOCK_EX) as turn:  # who waits to be alone is overtaken by nobody
        running = _locked("running", how)
        fcntl.flock(turn, fcntl.LOCK_UN)
    try:
        return (yield)
    finally:
        fcntl.flock(running, fcntl.LOCK_UN)  # processes that the test forked may still hold the file
        running.close()


@pytest.fixture
def own_registry(monkeypatch):
    """Operators that the test registers are gone after it."""

    def forget():
        registry.gm_chains.cache_clear()
        registry.na_chains.cache_clear()

    monkeypatch.setattr(registry, "_operators", dict(registry._operators))
    forget()
    yield
    monkeypatch.undo()
    forget()


@pytest.fixture(autouse=True)
def _flags_stay_as_they_were():
    before = (jt.flags.use_cuda, jt.flags.no_grad, jt.flags.auto_convert_64_to_32)
    yield
    assert (jt.flags.use_cuda, jt.flags.no_grad, jt.flags.auto_convert_64_to_32) == before
