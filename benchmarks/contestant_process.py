"""Contestants at work, each in a process of its own, under the Python that has its library."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
import select
import signal
import subprocess
import sys
import tempfile

HERE = Path(__file__).parent
PEERS = HERE.parent / "build" / "peers"
ENDING = 10.0  # seconds that a process may take to end
ON_TORCH = [
    "torch==2.13.0",
    "boat-torch==1.1.1",
    "higher==0.2.1",
    "betty-ml==0.1.1",
    "torchopt==0.7.3",
    "numpy<2",
    "matplotlib",
    "setuptools<81",
]


def default_torch_python() -> str:
    """The Python that has PyTorch: what JBOAT_TORCH_PYTHON says, else that of the environment in build/peers/torch."""
    return os.environ.get("JBOAT_TORCH_PYTHON") or str(PEERS / "torch" / "bin" / "python")


def interpreter(name: str, torch_python: str | None = None, *, install: bool = True) -> tuple[str, dict[str, str]]:
    """The Python that runs a contestant and its environment variables, after installing what is missing.

    Args:
        name: the contestant.
        torch_python: a Python that has the libraries on PyTorch, into which nothing is installed (default:
            :func:`default_torch_python`).
        install: whether to install what is missing.

    Raises:
        RuntimeError: if something is missing and could not be, or must not be, installed.
    """
    # cuDNN's and PyTorch's convolutions would be computed in TF32 on some cards, of three digits
    environment = {"NVIDIA_TF32_OVERRIDE": "0", **os.environ}
    if name in ("jboat", "jittor"):
        return sys.executable, environment
    if name == "boat_jit":
        target = PEERS / "boat_jit"
        if not (target / ".ready").exists():
            _require(install, "boat-jit")
            _pip(sys.executable, "boat-jit", "--no-deps", "--target", str(target), "boat-jit==1.1.1")
            (target / ".ready").touch()
        environment["PYTHONPATH"] = str(target)
        return sys.executable, environment
    own = str(PEERS / "torch" / "bin" / "python")
    python = torch_python or default_torch_python()
    if python == own and not (PEERS / "torch" / ".ready").exists():
        _require(install, "PyTorch")
        subprocess.run([sys.executable, "-m", "venv", str(PEERS / "torch")], check=True)
        _pip(own, "PyTorch and what runs on it", *ON_TORCH)
        (PEERS / "torch" / ".ready").touch()
    if not os.access(python, os.X_OK):
        raise RuntimeError(f"there is no Python at {python}")
    return python, environment


def _require(install: bool, package: str) -> None:
    if not install:
        raise RuntimeError(f"{package} is not in build/peers, and nothing is installed with --no-install")


def _pip(python: str, what: str, *packages: str) -> None:
    if subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=False).returncode:
        raise RuntimeError(f"pip could not install {what}")


class Process:
    """A contestant at work.

    Args:
        name: the contestant, ``use_NAME.py``.
        problem: what it works on.
        chain: its method.
        lower_iters: K.
        torch_python: see :func:`interpreter`.
        options: more of the options in ``serve.py``; those that are None are left to it.
    """

    def __init__(
        self,
        name: str,
        problem: str,
        chain: str,
        lower_iters: int,
        *,
        torch_python: str | None = None,
        **options: object,
    ) -> None:
        python, environment = interpreter(name, torch_python)
        script = str(HERE / "contestants" / f"use_{name}.py")
        command = [python, script, "--problem", problem, "--chain", chain, "--lower-iters", str(lower_iters)]
        command += [f"--{option}={value}" for option, value in options.items() if value is not None]
        self._killed = False
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed with the process)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
            start_new_session=True,
        )

    def ask(self, command: str, patience: float) -> dict[str, float]:
        """Send a command and wait for its answer, at most ``patience`` seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
            if not select.select([self._process.stdout], [], [], patience)[0]:
                raise RuntimeError(f"no answer to {command.split()[0]!r} in {patience:.0f} s")
            answer: dict[str, float] = json.loads(self._process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(ENDING)
            lines = [line for line in self.errors().splitlines() if "Error" in line] or ["no message"]
            raise RuntimeError(lines[-1]) from None
        return answer

    def errors(self) -> str:
        """What it has written to its standard error."""
        self._errors.seek(0)
        return self._errors.read()

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid

    def kill(self) -> None:
        """End it, and the compilers that it started."""
        if self._killed:
            return
        self._killed = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
