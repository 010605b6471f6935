"""The benchmark's own machinery, with contestants that stand in: what fails is a line, and nothing is lost."""

import argparse
import contextlib
import os
from pathlib import Path
import signal
import subprocess
import sys
import textwrap
import time

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import comparison_table  # noqa: E402
import contestant_process  # noqa: E402
import peers  # noqa: E402

# answers as serve.py does; a line in front of it tells how it behaves
STAND_IN = """
import json, os, sys, time
import numpy as np

def answer(**values):
    print(json.dumps(values), flush=True)

for number, line in enumerate(sys.stdin):
    command, _, path = line.strip().partition(" ")
    if command == fails_at:
        raise ModuleNotFoundError("No module named 'boat_jit'")
    if command == hangs_at or (hangs_at == "turn" and number > 3):
        time.sleep(600)
    if command == "gradient":
        np.save(path, np.array([1.0, off]))
        answer(saved=1.0)
    if command == "step":
        answer(ms=2.0, since_start=0.5)
    if command == "end":
        answer(peak_mb=100.0, kernels=7.0, gpu_mb=300.0)
"""


@pytest.fixture
def contestants(tmp_path, monkeypatch):
    """Makes contestants that stand in for the real ones."""
    (tmp_path / "contestants").mkdir()
    monkeypatch.setattr(contestant_process, "HERE", tmp_path)
    monkeypatch.setattr(contestant_process, "interpreter", lambda *args, **options: (sys.executable, dict(os.environ)))

    def make(name, fails_at="", hangs_at="", off=2.0):
        settings = f"fails_at, hangs_at, off = {fails_at!r}, {hangs_at!r}, {off!r}\n"
        (tmp_path / "contestants" / f"use_{name}.py").write_text(settings + STAND_IN)

    return make


def cells(names, *, absent=None, patience=20.0, limit=60.0):
    args = argparse.Namespace(
        only=names, iterations=10, steps=4, patience=patience, slow=False, device="cuda", samples=None, pixels=None,
        torch_python=None,
    )  # fmt: skip
    deadline = time.monotonic() + limit
    return list(peers.run_cell("l2", "RAD", 10, args, absent=absent or {}, deadline=deadline))


def commands_with(text):
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += [path.parent.name] * (text in path.read_text())
    return found


def rows(names, **options):
    return cells(names, **options)[-1]["contestants"]


def test_contestants_beside_each_other(contestants):
    contestants("jboat", off=2.001)
    contestants("torch")
    found = rows(["jboat", "torch"])
    assert found["torch"]["off"] == 0.0
    assert found["jboat"]["off"] == pytest.approx(0.001 / 5.0**0.5, rel=1e-3)
    assert found["jboat"]["jboat_ratio"] == 1.0
    assert found["jboat"]["gpu_mb"] == 300.0
    text = comparison_table.table([{"problem": "l2", "chain": "RAD", "lower_iters": 10, "contestants": found}])
    assert "peak GPU MB" in text
    assert "| l2 | RAD | 10 | torch | 2.0 | 1.00 | 0.0e+00 | 100 | 300 | 7 | 0.5 |" in text


def test_on_the_cpu_the_table_has_no_column_for_the_gpu(contestants):
    row = {"ms": 2.0, "jboat_ratio": 1.0, "off": 0.0, "peak_mb": 100.0, "kernels": 7.0, "first_s": 0.5}
    text = comparison_table.table([{"problem": "l2", "chain": "RAD", "lower_iters": 10, "contestants": {"jboat": row}}])
    assert text.splitlines() == [
        "| problem | chain | K | contestant | ms a step | jboat / it | off | peak MB | kernels | first step s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| l2 | RAD | 10 | jboat | 2.0 | 1.00 | 0.0e+00 | 100 | 7 | 0.5 |",
    ]


@pytest.mark.parametrize("command", ["gradient", "step", "end"])
def test_a_contestant_that_fails_is_a_line(contestants, capsys, command):
    contestants("jboat")
    contestants("boat_jit", fails_at=command)
    contestants("jittor")
    found = rows(["jboat", "boat_jit", "jittor"])
    assert "No module named 'boat_jit'" in found["boat_jit"]["failed"]
    assert "Traceback" in capsys.readouterr().err
    assert found["jboat"]["ms"] == found["jittor"]["ms"] == 2.0
    assert "failed" not in found["jboat"]


@pytest.mark.alone
def test_a_contestant_that_hangs_costs_its_patience_alone(contestants):
    contestants("jboat")
    contestants("boat_jit", hangs_at="gradient")
    begun = time.monotonic()
    found = rows(["jboat", "boat_jit"], patience=1.5)
    assert time.monotonic() - begun < 15.0
    assert found["boat_jit"]["failed"] == "no answer to 'gradient' in 2 s"
    assert found["jboat"]["ms"] == 2.0


def test_what_is_absent_is_a_line(contestants):
    contestants("jboat")
    found = rows(["jboat", "torch"], absent={"torch": "PyTorch is not in build/peers"})
    assert found["torch"] == {"failed": "PyTorch is not in build/peers"}
    assert found["jboat"]["ms"] == 2.0


def test_a_limit_leaves_time_for_those_that_run(contestants, monkeypatch):
    monkeypatch.setattr(peers, "TURNS", 58.0)
    contestants("jboat")
    contestants("jittor", hangs_at="gradient")
    contestants("torch")
    found = rows(["jboat", "jittor", "torch"], limit=60.0)
    assert found["jittor"]["failed"].startswith("no answer to 'gradient'")
    assert found["torch"]["failed"] == "no time left"
    assert found["jboat"]["ms"] == 2.0


def test_every_start_and_turn_is_told(contestants):
    contestants("jboat")
    contestants("jittor")
    told = cells(["jboat", "jittor"])
    assert len(told) == 2 + 2 + 1  # starts, turns of two steps, the end


def test_where_nothing_may_be_installed_nothing_is(tmp_path, monkeypatch):
    monkeypatch.setattr(contestant_process, "PEERS", tmp_path)
    monkeypatch.delenv("JBOAT_TORCH_PYTHON", raising=False)
    for name, what in (("boat_jit", "boat-jit"), ("torch", "PyTorch")):
        with pytest.raises(RuntimeError, match=f"{what} is not in build/peers.*--no-install"):
            contestant_process.interpreter(name, install=False)
    with pytest.raises(RuntimeError, match="no Python at /no/such/python"):
        contestant_process.interpreter("torch", "/no/such/python", install=False)
    assert contestant_process.interpreter("boat_torch", sys.executable, install=False)[0] == sys.executable
    monkeypatch.setenv("JBOAT_TORCH_PYTHON", sys.executable)
    assert contestant_process.interpreter("torch", install=False)[0] == sys.executable
    assert list(tmp_path.iterdir()) == []


def test_tf32_is_off_unless_the_user_chose(monkeypatch):
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    assert contestant_process.interpreter("jittor")[1]["NVIDIA_TF32_OVERRIDE"] == "0"
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    assert contestant_process.interpreter("jittor")[1]["NVIDIA_TF32_OVERRIDE"] == "1"


def test_a_stopped_benchmark_leaves_its_table_and_no_process(contestants, tmp_path):
    contestants("jboat")
    contestants("jittor", hangs_at="turn")
    program = f"""
        import os, sys
        from pathlib import Path
        sys.path.insert(0, {str(BENCHMARKS)!r})
        import contestant_process, peers
        contestant_process.HERE = Path({str(tmp_path)!r})
        sys.argv = ["peers.py", "--problems", "l2", "--chains", "RAD", "--only", "jboat", "jittor", "--no-install",
                    "--output", {str(tmp_path)!r}]
        peers.main()
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
    table = tmp_path / "l2.md"
    deadline = time.monotonic() + 30.0
    while not (table.exists() and "| jittor | not yet |" in table.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    assert "| jboat | " in table.read_text()
    assert commands_with(str(tmp_path / "contestants")) == []
