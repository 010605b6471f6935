"""The main example runs unchanged on two ranks, and prints once."""

import re

import numpy as np
import pytest

OPTIONS = ("--steps", "25", "--final-steps", "20")


@pytest.fixture(scope="module")
def printed(run, tmp_path_factory):
    folders = {ranks: tmp_path_factory.mktemp(f"ranks{ranks}") for ranks in (1, 2)}
    example = "../../examples/data_hyper_cleaning.py"
    done = {ranks: run(ranks, example, "--output", folder, *OPTIONS) for ranks, folder in folders.items()}
    for result in done.values():
        assert result.returncode == 0, result.stderr[-4000:]
    return {ranks: (result.stdout, folders[ranks]) for ranks, result in done.items()}


def test_it_prints_once_what_one_process_prints(printed):
    alone, both = (re.sub(r"took .*", "", printed[ranks][0]) for ranks in (1, 2))
    assert both == alone
    assert both.count("corrupted samples found") == 1


def test_it_logs_once_what_one_process_logs(printed):
    rows = [np.genfromtxt(printed[ranks][1] / "metrics.csv", delimiter=",", names=True) for ranks in (1, 2)]
    for name in ("step", "ll_loss", "ul_loss", "hypergradient_norm", "val_accuracy"):
        np.testing.assert_allclose(rows[1][name], rows[0][name], rtol=1e-4, atol=1e-6)
    assert len(list(printed[2][1].glob("events.out.tfevents*"))) == 1
