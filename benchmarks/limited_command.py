"""Run a command with a time limit that leaves nothing of it behind.

A program that compiles must not lose its compilers alone: Jittor ends with "Caught SIGCHLD" then. So the program is
asked to end first, and then it and everything that it started is killed, sessions of their own included. What belongs
to it is known by a variable of the environment, which every process inherits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import contextlib
import os
from pathlib import Path
import signal
import subprocess
import time
from typing import NamedTuple
import uuid

MARK = "JBOAT_LIMITED_COMMAND"
GRACE = 8.0  # seconds to end in when asked, in which a benchmark still writes its table
UNKILLABLE = 10.0  # seconds after which a process that hangs in a driver is left alone
LOOK_AGAIN = 0.05  # seconds


class Outcome(NamedTuple):
    """How a command ended.

    Attributes:
        result: ``"passed"``, ``"failed (STATUS)"``, ``"ended by SIGNAL"``, ``"stopped at its limit"``,
            ``"stopped, it stood still"``, or why it could not start.
        seconds: how long it took.
    """

    result: str
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether it ended with status 0."""
        return self.result == "passed"


def run(
    command: Sequence[str],
    log: Path,
    limit: float,
    *,
    environment: Mapping[str, str],
    folder: Path,
    stands_still: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Run ``command`` in ``folder`` for at most ``limit`` seconds, its output at the end of ``log``.

    Whatever ends this function, an exception in the calling program too, ends the command and all that it started.

    Args:
        command: program and arguments.
        log: a file, which is made or goes on.
        limit: seconds.
        environment: the command's whole environment.
        folder: where it runs.
        stands_still: asked again and again; the command is stopped when it says so.
    """
    mark = uuid.uuid4().hex
    marks = f"{environment.get(MARK, '')}/{mark}"  # of a command within a command, too
    begun = time.monotonic()
    with log.open("a") as output:
        output.write(f"$ {' '.join(command)}\n")
        output.flush()
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**environment, MARK: marks},
                cwd=folder,
                start_new_session=True,
            )
        except OSError as error:
            output.write(f"{error}\n")
            return Outcome(f"did not start: {error.strerror}", 0.0)
        try:
            result = _wait(process, begun + limit, stands_still)
        finally:
            _end(process, mark)
        seconds = time.monotonic() - begun
        output.write(f"# {result} after {seconds:.1f} s\n")
    return Outcome(result, seconds)


def _wait(process: subprocess.Popen[bytes], deadline: float, stands_still: Callable[[], bool]) -> str:
    while process.poll() is None:
        if time.monotonic() > deadline:
            return "stopped at its limit"
        if stands_still():
            return "stopped, it stood still"
        time.sleep(LOOK_AGAIN)
    status = process.returncode
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    return f"failed ({status})" if status else "passed"


def _end(process: subprocess.Popen[bytes], mark: str) -> None:
    """Ask the process to end, then kill what is left of it, itself before what it started."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    given_up = time.monotonic() + UNKILLABLE
    while (left := _marked(mark)) and time.monotonic() < given_up:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(LOOK_AGAIN)
        process.poll()


def _marked(mark: str) -> list[int]:
    """The processes whose environment has this mark, older ones first."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return sorted(found)
