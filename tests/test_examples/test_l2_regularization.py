"""The regularisation example: learned weights beat the best single one, and tell noise from signal."""

import types

import numpy as np
import pytest


def test_learned_weights_beat_the_best_single_one(run, tmp_path, capsys):
    results = run(tmp_path, "--data", "digits", "--steps", "60", "--final-steps", "100")
    assert results["loss"] < 0.85 * results["single_loss"]
    assert results["accuracy"] > results["single_accuracy"]
    assert results["noise_to_signal"] > 3.0
    assert "lower the test loss by" in capsys.readouterr().out
    assert (tmp_path / "l2_regularization.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "metrics.csv").exists()


def test_newsgroups_are_taken_where_they_can_be_had(example, monkeypatch, capsys):
    datasets = pytest.importorskip("sklearn.datasets")

    def absent(*, subset, remove):
        raise OSError("no network")

    def present(*, subset, remove):
        words = [f"word{i} and thing{i % 20} speak of topic{i % 20}" for i in range(4200)]
        return types.SimpleNamespace(data=words, target=np.arange(4200) % 20)

    parse = example.parser().parse_args
    monkeypatch.setattr(datasets, "fetch_20newsgroups", absent)
    assert example.load(parse([]))[0] == "digits"
    assert "cannot be had (no network)" in capsys.readouterr().out
    monkeypatch.setattr(datasets, "fetch_20newsgroups", present)
    name, data = example.load(parse([]))
    assert name == "newsgroups"
    assert data.train["data"].shape == data.val["data"].shape == (2000, 1000)
    assert data.test["data"].shape == (4200, 1000)
    assert data.informative is None
