"""The tour of operations: its numbers on the CPU, and that it goes on where an operation ends or holds up a process."""

import json
from pathlib import Path
import subprocess
import sys
import textwrap
import time

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import operation_tour  # noqa: E402
from step_table import tour_rows, tour_table  # noqa: E402

JOBS = ["right/jboat", "wrong/jboat", "crash/jboat", "hang/jboat", "late/jboat", "late/Jittor"]
# behaves as operation_check.py does, each operation as its name says
STAND_IN = """
import argparse, json, os, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("rows")
parser.add_argument("--jobs", nargs="+")
parser.add_argument("--alone", type=int)
parser.add_argument("--done", nargs="*")
args = parser.parse_args()
jobs = [job.split("/") for job in args.jobs]
with open(args.rows, "a") as file:
    def write(row):
        print(json.dumps(row), file=file, flush=True)
    if not os.path.getsize(args.rows):
        write({"heading": "Stand-in.", "jobs": args.jobs})
    for number, (operation, form) in enumerate(jobs):
        if f"{operation}/{form}" in args.done:
            continue
        if operation == "together" and number >= args.alone:
            os.abort()
        row = {"operation": operation, "form": form}
        write({**row, "value": "begun"})
        if operation == "crash":
            os.abort()
        if operation == "hang":
            time.sleep(600)
        write({**row, "value": f"by {os.getpid()}", "right": operation != "wrong", "seconds": 0.1})
        if operation == "wrong":
            sys.exit(75)
"""


@pytest.fixture
def tour(tmp_path):
    program = tmp_path / "stand_in.py"
    program.write_text(STAND_IN)
    rows = tmp_path / "tour.jsonl"

    def run(jobs, patience=3.0, program=program):
        complete = operation_tour.tour([sys.executable, str(program), str(rows), "--jobs", *jobs], rows, patience)
        return complete, {f"{row['operation']}/{row['form']}": row for row in tour_rows(rows)[1:]}

    return run


def test_goes_on_in_another_process(tour):
    complete, rows = tour(JOBS)
    assert complete
    assert list(rows) == JOBS
    assert rows["crash/jboat"]["value"] == "**the process ended by SIGABRT**"
    assert rows["hang/jboat"]["value"] == "**the process stopped, it stood still**"
    assert [name for name, row in rows.items() if not row["right"]] == ["wrong/jboat", "crash/jboat", "hang/jboat"]
    processes = [rows[name]["value"] for name in ("right/jboat", "wrong/jboat", "late/jboat", "late/Jittor")]
    assert processes[0] == processes[1] != processes[2] == processes[3]


def test_operations_that_fail_together_are_taken_one_by_one(tour):
    complete, rows = tour(["right/jboat", "together/jboat", "late/jboat"])
    assert complete
    assert [row["right"] for row in rows.values()] == [True, True, True]


@pytest.mark.alone
def test_gives_up_where_nothing_starts(tour, tmp_path):
    program = tmp_path / "broken.py"
    program.write_text("raise SystemExit('Jittor runs without CUDA')")
    begun = time.monotonic()
    complete, rows = tour(["right/jboat"], program=program)
    assert not complete
    assert rows == {}
    assert time.monotonic() - begun < 10.0
    assert "Jittor runs without CUDA" in (tmp_path / "operations.log").read_text()


def test_a_row_half_written_is_left_out(tmp_path):
    rows = tmp_path / "tour.jsonl"
    row = {"operation": "matmul", "form": "jboat", "value": "0.0e+00"}
    rows.write_text(json.dumps({"heading": "H.", "jobs": []}) + "\n" + json.dumps(row) + '\n{"operation": "ma')
    assert tour_rows(rows)[1:] == [row]
    assert "| matmul | jboat | 0.0e+00 |" in tour_table(tour_rows(rows)[1:])


def make_tour(folder, *options):
    command = [sys.executable, str(BENCHMARKS / "operation_tour.py"), "--device", "cpu", "--output", str(folder)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    return done, {(row["operation"], row["form"]): row for row in tour_rows(folder / "tour.jsonl")[1:]}


def test_what_jboat_puts_in_place_agrees_with_jittor(tmp_path):
    done, rows = make_tour(tmp_path, "--only", "matmul", "relu", "softmax_last", "max_pool")
    assert done.returncode == 0, done.stdout + done.stderr
    for operation in ("matmul", "relu", "softmax_last", "max_pool"):
        row = rows[operation, "jboat"]
        assert row["right"]
        assert all(0.0 <= float(row[order]) < 1e-5 for order in ("value", "first", "second"))
    assert "**" in rows["max_pool", "Jittor"]["second"]  # Jittor's own is zero
    assert not rows["max_pool", "Jittor"]["right"]
    assert "Jittor's own wrong: max_pool\n" in done.stdout


def test_derivatives_agree_with_central_differences(tmp_path):
    done, rows = make_tour(tmp_path, "--only", "matmul", "relu", "softmax_last", "--reference", "differences")
    assert done.returncode == 0, done.stdout + done.stderr
    for operation in ("matmul", "relu", "softmax_last"):
        row = rows[operation, "jboat"]
        assert 0.0 < float(row["first"]) < 5e-3
        assert 0.0 < float(row["second"]) < 5e-3


def test_a_wrong_derivative_is_marked(tmp_path):
    program = f"""
        import sys
        sys.path.insert(0, {str(BENCHMARKS)!r})
        import operation_check, operation_probes
        import jittor as jt

        def half_detached(x):
            return x * x.detach()

        class Fails(jt.Function):
            def execute(self, x):
                return x * 1.0

            def grad(self, dout):
                raise ValueError("no derivative error")

        probes = operation_probes.PROBES
        probes["detached"] = operation_probes.Probe(lambda x: x * x.detach(), (operation_probes.ROWS,))
        probes["fails"] = operation_probes.Probe(lambda x: Fails()(x), (operation_probes.ROWS,))
        for reference in ("differences", "cpu"):
            print(operation_check.check(operation_check.Job("detached", "jboat"), "cpu", reference)["right"])
        row = operation_check.check(operation_check.Job("fails", "jboat"), "cpu", "differences")
        print(row["right"], row["first"])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["False", "True"], done.stdout + done.stderr  # plain Jittor has the same function
    assert lines[-1].startswith("False **")
