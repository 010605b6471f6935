"""The reweighting example: learned weights help rare classes."""

import numpy as np


def test_learned_weights_beat_unweighted_training(run, tmp_path, capsys):
    results = run(tmp_path, "--steps", "200")
    assert results["weights by loss"] > results["unweighted"] + 0.01
    assert results["weights by loss and frequency"] > results["unweighted"] + 0.04
    assert results["rare_to_frequent"] > 2.0
    assert "three rarest classes" in capsys.readouterr().out
    assert (tmp_path / "data_reweighting.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "loss" / "metrics.csv").exists()


def test_the_tail_is_long_and_nothing_is_used_twice(example):
    data = example.load(most=100, imbalance=50.0, clean=5, seed=0)
    assert (data.counts.max(), data.counts.min()) == (100, 2)
    assert (np.bincount(data.train["target"]) == data.counts).all()
    assert (np.bincount(data.balanced["target"]) == 5).all()
    assert sum(len(split["target"]) for split in data[:3]) == 1797
