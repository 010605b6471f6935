"""The comparison of operators, small: its exact answer is right, and the chains stand to it as theory says."""

import csv
import re

import numpy as np
import pytest


def test_the_exact_hypergradient_is_the_derivative_of_the_upper_loss(example):
    train, val = example.load(0)
    exact = example.Exact(train, val)
    x = np.random.default_rng(0).normal(size=train["data"].shape[1]) - 3.0
    gradient = exact.solve(x)[1]
    direction = np.random.default_rng(1).normal(size=x.shape)
    difference = (exact.solve(x + 1e-4 * direction)[0] - exact.solve(x - 1e-4 * direction)[0]) / 2e-4
    assert gradient @ direction == pytest.approx(difference, rel=1e-5)


def test_the_table_ranks_the_chains(run, tmp_path, capsys):
    rows = run(tmp_path, "--steps", "8", "--chains", "RAD", "CG", "FD")
    assert rows["CG"]["first_error"] < rows["RAD"]["first_error"] < rows["FD"]["first_error"] < 1.0
    assert rows["CG"]["first_cosine"] > 0.99
    assert rows["CG"]["upper_loss"] < rows["FD"]["upper_loss"]
    printed = capsys.readouterr().out
    assert all(f"\n{chain} " in printed for chain in rows)
    assert "error: |hypergradient - exact| / |exact|, exact being dF/dx at the solution of the lower level" in printed
    assert re.search(r"ms/step +MB +error % +cosine +error % +cosine +nats\n", printed)
    shown = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line.split()[0] in rows}
    assert float(shown["FD"][2]) == pytest.approx(100 * rows["FD"]["first_error"], rel=1e-3)
    with (tmp_path / "compare.csv").open() as file:
        assert [row["chain"] for row in csv.DictReader(file)] == list(rows)
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "CG" / "metrics.csv").exists()
    assert list((tmp_path / "CG").glob("events.out.tfevents*"))
