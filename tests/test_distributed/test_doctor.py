"""The doctor says whether several processes can train together, and how to get there."""

import os
import subprocess
import sys

import pytest


@pytest.fixture
def doctor(start):
    def said(**environment):
        command = [sys.executable, "-m", "jboat", "doctor"]
        done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        lines = done.stdout.splitlines()
        first = next(i for i, line in enumerate(lines) if line.startswith("MPI:"))
        return "\n".join(lines[first : first + 2])

    return said


def test_two_processes_try(doctor):
    assert "two processes agree" in doctor()


def test_what_is_missing_is_named(doctor):
    said = doctor(mpicc_path="")
    assert "several processes cannot train together" in said
    assert "there is no mpicc" in said
    assert "apt-get install openmpi-bin libopenmpi-dev" in said


def test_two_processes_that_fail_are_told_of(doctor, tmp_path):
    launcher = tmp_path / "mpirun"
    launcher.write_text("#!/bin/sh\necho there are not enough slots >&2\nexit 1\n")
    launcher.chmod(0o755)
    said = doctor(PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert "FAILED: there are not enough slots" in said
