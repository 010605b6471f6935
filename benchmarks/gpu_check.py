"""What runs on the GPU: the doctor, the exactness tests, the main example, and the time beside plain Jittor.

Prints a table and writes it to benchmarks/results/gpu.md. Without a usable GPU it says what is missing and ends with 1.
Everything runs in the tests' home, so that Jittor's core is compiled once.
"""

from __future__ import annotations

import os
from pathlib import Path
import subprocess
import sys
import tempfile
import time

from jboat import runtime

ROOT = Path(__file__).parents[1]
LAB = ROOT / ".jittor-lab"
EXACTNESS = ["tests/test_jboat/na_ol", "tests/test_jboat/test_autodiff.py", "tests/test_jboat/test_nn.py"]


def checks(output: str) -> dict[str, list[str]]:
    """The commands, by what they show."""
    python = sys.executable
    example = [python, "examples/data_hyper_cleaning.py", "--device", "cuda", "--steps", "30", "--output", output]
    peers = [python, "benchmarks/peers.py", "--device", "cuda", "--only", "jboat", "jittor", "--name", "gpu_"]
    return {
        "doctor": [python, "-m", "jboat", "doctor"],
        "exactness tests": [python, "-m", "pytest", "-q", *EXACTNESS],
        "main example, 30 outer steps": example,
        "benchmark, jboat and plain Jittor": [*peers, "--problems", "l2", "cnn", "--chains", "RAD", "CG"],
    }


def main() -> int:
    """Run the checks; returns 0 if all passed."""
    toolkit = runtime.find_cuda()
    if not toolkit.usable:
        print(f"no usable GPU: missing {', '.join(toolkit.missing)}")
        return 1
    rows = ["| check | result | seconds | last line |", "| --- | --- | --- | --- |"]
    failed = False
    LAB.mkdir(exist_ok=True)
    environment = {**os.environ, "JBOAT_TEST_DEVICE": "cuda", "HOME": str(LAB)}
    environment.pop("JITTOR_HOME", None)
    with tempfile.TemporaryDirectory() as folder:
        for name, command in checks(folder).items():
            begun = time.perf_counter()
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
            seconds = time.perf_counter() - begun
            print(done.stdout, done.stderr[-4000:] if done.returncode else "", sep="\n", flush=True)
            last = ([line for line in done.stdout.splitlines() if line.strip()] or [""])[-1]
            passed = "passed" if done.returncode == 0 else f"failed ({done.returncode})"
            failed = failed or done.returncode != 0
            rows.append(f"| {name} | {passed} | {seconds:.0f} | {last.strip('| ').replace('|', '/')} |")
    print("\n".join(rows))
    (ROOT / "benchmarks" / "results" / "gpu.md").write_text("\n".join(rows) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
