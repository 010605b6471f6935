"""Lint and the main tests under every Python that jboat runs on and this machine has.

Each gets a virtual environment of its own, .venv-3.X; Jittor's core and the kernels are compiled once for each, which
takes some ten minutes on two cores. Prints a table; ends with 1 if anything failed or no Python was found.
"""

from __future__ import annotations

from pathlib import Path
import re
import shutil
import subprocess
import sys
import time

ROOT = Path(__file__).parents[1]
VERSIONS = ("3.10", "3.11", "3.12")
TESTS = (
    "tests/test_jboat/na_ol",
    "tests/test_jboat/test_optim.py",
    "tests/test_jboat/backend",
    "tests/test_trainers/test_fit.py",
    "tests/test_trainers/test_resume.py",
    "tests/test_trainers/test_checkpoint_files.py",
    "tests/test_trainers/test_configuration.py",
    "tests/test_callbacks",
)


def interpreter(version: str) -> str | None:
    """A Python of this version: on the PATH, or one that pyenv or uv has installed."""
    homes = (Path.home() / ".pyenv" / "versions", Path.home() / ".local" / "share" / "uv" / "python")
    places = [shutil.which(f"python{version}")]
    places += [str(path) for home in homes for path in sorted(home.glob(f"*{version}.*/bin/python{version}"))]
    for place in places:
        if place and _is_of(version, place):  # pyenv puts programs on the PATH that only say which Python is missing
            return place
    return None


def _is_of(version: str, python: str) -> bool:
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False)
    return done.returncode == 0 and done.stdout.strip() == version


def run(version: str, python: str) -> tuple[bool, str]:
    """Lint and tests under one Python; whether both passed, and a row of the table."""
    begun = time.perf_counter()
    make = ["make", f"PYTHON={python}", f"VENV=.venv-{version}"]
    environment = subprocess.run([*make, f".venv-{version}/.ready"], cwd=ROOT, check=False).returncode
    if environment != 0:
        return False, f"| {version} | the environment could not be made (venv, or the registry) | | |"
    lint = subprocess.run([*make, "lint"], cwd=ROOT, check=False).returncode
    command = [f".venv-{version}/bin/python", "-m", "pytest", *TESTS]
    tests = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert tests.stdout is not None
    last = ""
    for line in tests.stdout:
        print(line, end="", flush=True)
        last = line.strip() or last
    passed = tests.wait() == 0 and lint == 0
    outcome = re.sub(r" in .*", "", last)
    seconds = time.perf_counter() - begun
    return passed, f"| {version} | {'passed' if lint == 0 else 'failed'} | {outcome} | {seconds / 60:.0f} |"


def main() -> int:
    """Run them one after another; returns the exit status."""
    rows = ["| Python | lint | tests | minutes |", "| --- | --- | --- | --- |"]
    results = []
    for version in VERSIONS:
        python = interpreter(version)
        if python is None:
            rows.append(f"| {version} | not found | | |")
            continue
        passed, row = run(version, python)
        results.append(passed)
        rows.append(row)
    print("\n".join(rows))
    return int(not results or not all(results))


if __name__ == "__main__":
    sys.exit(main())
