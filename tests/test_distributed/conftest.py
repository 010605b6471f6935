"""Programs started several times by ``mpirun``, in a time within which they have to end."""

import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import tempfile

import pytest

HERE = Path(__file__).parent
WHY_SKIPPED = "mpirun is not installed: apt-get install openmpi-bin libopenmpi-dev"


def pytest_terminal_summary(terminalreporter):
    if shutil.which("mpirun") is None:
        terminalreporter.write_line(f"tests of several processes were skipped: {WHY_SKIPPED}")


@pytest.fixture(scope="session")
def start():
    """Start a program of this folder: ``start(ranks, name, *arguments)``, with no ``mpirun`` for one rank.

    Ranks that wait let others compute, since another worker of pytest may run on the same cores. Each ``mpirun`` has a
    folder of its own, since those that begin and end at once fail over the one they would share. Its path is short, as
    those of sockets have to be.
    """
    if shutil.which("mpirun") is None:
        pytest.skip(WHY_SKIPPED)
    sessions = tempfile.TemporaryDirectory(prefix="mpi-")

    def started(ranks, name, *arguments, **environment):
        command = [sys.executable, str(HERE / name), *map(str, arguments)]
        if ranks > 1:
            command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", str(ranks), *command]
        own = {name: value for name, value in os.environ.items() if not name.startswith("OMPI_")}
        paths = os.pathsep.join([str(HERE.parent), *filter(None, [own.get("PYTHONPATH")])])
        own |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "OMPI_MCA_mpi_yield_when_idle": "1", **environment}
        own["OMPI_MCA_orte_tmpdir_base"] = tempfile.mkdtemp(dir=sessions.name)
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=own, start_new_session=True)

    with sessions:
        yield started


@pytest.fixture(scope="session")
def run(start):
    """Run a program of this folder to its end; the result has ``returncode``, ``stdout`` and ``stderr``."""

    def done(ranks, name, *arguments, timeout=240, **environment):
        process = start(ranks, name, *arguments, **environment)
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)  # mpirun ends its processes, then
            try:
                stdout, stderr = process.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                stdout, stderr = process.communicate()
            pytest.fail(f"{name} on {ranks} ranks did not end in {timeout} s\n{stdout[-2000:]}\n{stderr[-4000:]}")
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    return done
