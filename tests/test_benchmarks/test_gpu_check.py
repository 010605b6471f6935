"""The GPU check's own machinery, with commands that stand in for its steps: limits, order, what is written when."""

import json
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

import gpu_check  # noqa: E402
import graphics_card  # noqa: E402
from graphics_card import GraphicsCard  # noqa: E402
import limited_command  # noqa: E402
from step_table import Record, StepTable, last_line  # noqa: E402

HEADING = ["Card of a test."]
# starts a child in a session of its own, as peers.py does with a contestant, that writes down its number
WITH_A_CHILD = """
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
print("started", flush=True)
{then}
"""


def python(program, *arguments):
    return [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)]


def gone(number):
    """Whether a process has ended; one that nobody has waited for counts."""
    try:
        state = Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.02)


@pytest.fixture
def run_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "SHORTEST", 0.5)

    def run(steps, limit=60.0):
        table = StepTable(tmp_path, tmp_path / "gpu.md", HEADING, [step.name for step in steps])
        return gpu_check.run_steps(steps, table, limit, folder=tmp_path, variables=os.environ)

    return run


def records(folder):
    kept = json.loads((folder / "steps.json").read_text())["records"]
    return {fields[0]: Record(*fields) for fields in kept}


def test_goes_on_after_every_kind_of_failure(run_steps, tmp_path):
    steps = [
        gpu_check.Step("right", python("print('all is well')"), 20.0),
        gpu_check.Step("fails", python("import sys; print('why'); sys.exit(3)"), 20.0),
        gpu_check.Step("crashes", python("import os; os.abort()"), 20.0),
        gpu_check.Step("absent", ["/no/such/program"], 20.0),
        gpu_check.Step("hangs", python("import time; print('begun', flush=True); time.sleep(600)"), 2.0),
        gpu_check.Step("after", python("print('still here')"), 20.0),
    ]
    assert run_steps(steps) is False
    found = records(tmp_path)
    assert list(found) == [step.name for step in steps]
    assert {name: record.result for name, record in found.items()} == {
        "right": "passed",
        "fails": "failed (3)",
        "crashes": "ended by SIGABRT",
        "absent": "did not start: No such file or directory",
        "hangs": "stopped at its limit",
        "after": "passed",
    }
    assert found["right"].last == "all is well"
    assert found["hangs"].last == "begun"
    assert 2.0 <= found["hangs"].seconds < 8.0
    text = (tmp_path / "gpu.md").read_text()
    assert "| right | passed |" in text
    assert "## fails: failed (3)" in text
    assert "\nwhy\n" in text
    assert HEADING[0] in text


def test_all_passed(run_steps):
    assert run_steps([gpu_check.Step("one", python("pass"), 20.0), gpu_check.Step("two", python("pass"), 20.0)])


def test_what_a_stopped_step_started_is_stopped_with_it(run_steps, tmp_path):
    program = WITH_A_CHILD.format(then="time.sleep(600)")
    run_steps([gpu_check.Step("hangs", python(program, tmp_path / "child"), 2.0)])
    assert gone(int((tmp_path / "child").read_text()))


def test_what_a_finished_step_left_is_stopped(run_steps, tmp_path):
    run_steps([gpu_check.Step("leaves", python(WITH_A_CHILD.format(then=""), tmp_path / "child"), 20.0)])
    assert records(tmp_path)["leaves"].result == "passed"
    assert gone(int((tmp_path / "child").read_text()))


@pytest.mark.alone
def test_a_step_that_will_not_end_is_killed(run_steps, tmp_path, monkeypatch):
    monkeypatch.setattr(limited_command, "GRACE", 0.5)
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    begun = time.monotonic()
    run_steps([gpu_check.Step("stubborn", python(program), 2.0)])
    assert time.monotonic() - begun < 6.0
    assert records(tmp_path)["stubborn"].result == "stopped at its limit"


def test_a_stopped_step_may_write_before_it_ends(run_steps, tmp_path):
    program = """
        import signal, sys, time
        def end(*_):
            print("what there is", flush=True)
            sys.exit(1)
        signal.signal(signal.SIGTERM, end)
        time.sleep(600)
    """
    run_steps([gpu_check.Step("polite", python(program), 2.0)])
    assert records(tmp_path)["polite"].last == "what there is"


def test_everything_so_far_is_written_while_a_step_runs(tmp_path):
    driver = f"""
        import os, sys
        from pathlib import Path
        sys.path.insert(0, {str(BENCHMARKS)!r})
        import gpu_check
        from step_table import StepTable
        folder = Path({str(tmp_path)!r})
        steps = [
            gpu_check.Step("first", [sys.executable, "-c", "print('seen')"], 20.0),
            gpu_check.Step("second", [sys.executable, "-c", {WITH_A_CHILD.format(then="time.sleep(600)")!r},
                           str(folder / "child")], 500.0),
            gpu_check.Step("third", [sys.executable, "-c", "pass"], 20.0),
        ]
        table = StepTable(folder, folder / "gpu.md", ["Card."], [step.name for step in steps])
        gpu_check.signal.signal(gpu_check.signal.SIGTERM, gpu_check._end)
        gpu_check.run_steps(steps, table, 550.0, folder=folder, variables=dict(os.environ))
    """
    process = subprocess.Popen(python(driver), start_new_session=True)
    try:
        until((tmp_path / "child").exists)
        until(lambda: (tmp_path / "child").read_text())
        assert records(tmp_path)["first"].result == "passed"
        assert records(tmp_path)["second"].result == "running, for at most 500 s"
        assert "| first | passed |" in (tmp_path / "gpu.md").read_text()
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
    finally:
        if process.poll() is None:
            process.kill()
    assert records(tmp_path)["second"].result == "interrupted"
    assert records(tmp_path)["second"].last == "started"
    assert "third" not in records(tmp_path)
    assert gone(int((tmp_path / "child").read_text()))


def test_a_later_step_keeps_its_share(run_steps, tmp_path):
    sleeper = python("import time; time.sleep(600)")
    steps = [gpu_check.Step("long", sleeper, 100.0, 0.5), gpu_check.Step("shared", sleeper, 100.0, 2.0)]
    run_steps(steps, limit=5.0)
    found = records(tmp_path)
    assert found["long"].result == found["shared"].result == "stopped at its limit"
    assert found["long"].seconds == pytest.approx(3.0, abs=0.9)
    assert found["shared"].seconds == pytest.approx(2.0, abs=0.9)


def test_no_time_left(run_steps, tmp_path):
    steps = [gpu_check.Step("long", python("import time; time.sleep(600)"), 100.0), gpu_check.Step("late", ["x"], 9.0)]
    assert run_steps(steps, limit=2.0) is False
    assert records(tmp_path)["late"].result == "no time left"


def test_a_command_is_told_its_seconds(run_steps, tmp_path):
    run_steps([gpu_check.Step("told", python("import sys; print(sys.argv[1])", "SECONDS"), 30.0)])
    assert records(tmp_path)["told"].last == f"{30.0 - gpu_check.ENDING:.0f}"


def test_a_later_run_replaces_its_own_lines_alone(tmp_path):
    def table(heading):
        return StepTable(tmp_path, tmp_path / "gpu.md", heading, ["first", "second"])

    table(["A card."]).put(Record("second", "failed (1)", 3.0, "then", "why"))
    table(["A card."]).put(Record("first", "passed", 2.0, "now", ""))
    assert list(records(tmp_path)) == ["first", "second"]
    table(["A card."]).put(Record("second", "passed", 2.0, "now", ""))
    assert records(tmp_path)["second"].result == "passed"
    table(["Another card."]).put(Record("first", "passed", 2.0, "now", ""))
    assert list(records(tmp_path)) == ["first"]


def test_a_damaged_record_of_an_earlier_run_is_forgotten(tmp_path):
    (tmp_path / "steps.json").write_text('{"heading": ["A car')
    StepTable(tmp_path, tmp_path / "gpu.md", ["A card."], ["first"]).put(Record("first", "passed", 2.0, "now", ""))
    assert list(records(tmp_path)) == ["first"]


def test_tables_of_the_steps_are_in_the_report(tmp_path):
    rows = [
        {"heading": "Off by more than 1e-4 is marked."},
        {"operation": "matmul", "form": "jboat", "value": "1.0e-07", "first": "2.0e-07", "second": "**0.5**"},
    ]
    (tmp_path / "tour.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    contestant = {"ms": 12.3, "jboat_ratio": 1.0, "off": 1e-7, "peak_mb": 100.0, "gpu_mb": 321.0, "kernels": 18.0}
    cell = {"problem": "l2", "chain": "RAD", "lower_iters": 10, "contestants": {"jboat": contestant | {"first_s": 2.0}}}
    cell["contestants"]["boat_jit"] = {"failed": "ModuleNotFoundError: No module named 'boat_jit'"}
    cell["contestants"]["jittor"] = {"first_s": 3.0}
    (tmp_path / "l2.json").write_text(json.dumps([cell]))
    table = StepTable(tmp_path, tmp_path / "gpu.md", ["A card."], ["tour", "l2"])
    table.put(Record("tour", "passed", 1.0, "now", ""))
    table.put(Record("l2", "passed", 1.0, "now", ""))
    text = (tmp_path / "gpu.md").read_text()
    assert "| matmul | jboat | 1.0e-07 | 2.0e-07 | **0.5** |" in text
    assert "| l2 | RAD | 10 | jboat | 12.3 | 1.00 | 1.0e-07 | 100 | 321 | 18 | 2.0 |" in text
    assert "| l2 | RAD | 10 | boat_jit | failed: ModuleNotFoundError: No module named 'boat_jit' |" in text
    assert "| l2 | RAD | 10 | jittor | not yet |" in text


def test_the_last_line_of_a_test_run_counts_outcomes():
    log = """$ python -m pytest
tests/a.py::test_one[x-y] PASSED      [  1%]
tests/a.py::test_two FAILED           [  2%]
tests/a.py::test_three PASSED         [  3%]
tests/a.py::test_four """
    assert last_line(log) == "1 failed, 2 passed"


def test_the_last_line_is_none_of_our_own():
    assert last_line("$ python x.py\n\nwhat it says\n\n# passed after 1.0 s\n") == "what it says"


def check(*arguments, **variables):
    command = [sys.executable, str(BENCHMARKS / "gpu_check.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables}, check=False)


def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path):
    if graphics_card.find() is not None:
        pytest.skip("this machine has a GPU")
    done = check("--output", str(tmp_path / "out"))
    assert done.returncode == 1
    assert "no usable GPU" in done.stdout
    assert "python -m jboat doctor" in done.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("limit", ["nan", "inf", "0", "-1", "soon"])
def test_a_limit_has_to_be_a_number_of_seconds(limit):
    done = check("--limit", limit)
    assert done.returncode == 2
    assert "--limit" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_output_has_to_be_a_folder(tmp_path):
    (tmp_path / "gpu.md").write_text("")
    done = check("--output", str(tmp_path / "gpu.md"))
    assert done.returncode == 2
    assert "must be a folder" in done.stderr


def test_a_rehearsal_is_called_one():
    assert gpu_check.heading(None, {}) == ["# A rehearsal on the CPU"]


def test_the_card_is_named_by_nvidia_smi(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 580.65.06, 81559 MiB'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert graphics_card.find() == GraphicsCard("NVIDIA H100 80GB HBM3", "580.65.06", "81559 MiB")
    tool.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed' >&2; exit 9\n")
    assert graphics_card.find() is None or graphics_card.find().memory == ""


@pytest.mark.parametrize("override", ["0", "1"])
def test_the_heading_tells_of_tf32(override):
    lines = gpu_check.heading(GraphicsCard("H100", "580", ""), {"NVIDIA_TF32_OVERRIDE": override})
    assert f"`NVIDIA_TF32_OVERRIDE={override}`" in lines[-1]
    assert ("never in TF32" in lines[-1]) == (override == "0")


def test_the_environment_of_the_steps(monkeypatch):
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    monkeypatch.setenv("JITTOR_HOME", "/elsewhere")
    chosen = gpu_check.environment("cuda")
    assert chosen["NVIDIA_TF32_OVERRIDE"] == "0"
    assert chosen["JBOAT_TEST_DEVICE"] == "cuda"
    assert "JITTOR_HOME" not in chosen
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    assert gpu_check.environment("cuda")["NVIDIA_TF32_OVERRIDE"] == "1"


def test_an_unknown_step_is_refused_with_those_there_are():
    done = check("--steps", "tuor")
    assert done.returncode == 2
    assert "tour" in done.stderr


def test_a_library_of_the_drivers_name_alone_is_no_card(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(graphics_card.ctypes, "CDLL", lambda name: object())
    assert graphics_card.find() is None
