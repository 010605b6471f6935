"""The example of learned settings: they beat a grid of fixed ones in a fraction of its time."""

import numpy as np


def test_learned_settings_beat_the_best_of_the_grid_in_less_time(run, tmp_path, capsys):
    results = run(tmp_path)
    assert results["learned_loss"] < 0.99 * results["grid_loss"]
    assert results["learned_accuracy"] >= results["grid_accuracy"]
    assert results["learned_seconds"] < 0.5 * results["grid_seconds"]
    printed = capsys.readouterr().out
    assert "best of 16" in printed
    assert "layer 1: learning rate" in printed
    assert (tmp_path / "learned_optimizer.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "metrics.csv").exists()


def test_every_layer_has_settings_of_its_own_and_nothing_is_used_twice(example):
    settings = example.Settings([0, 0, 1, 1], 0.1, 1e-3)
    assert len(settings.rates()) == len(settings.decays()) == 4
    np.testing.assert_allclose([v.item() for v in settings.rates()], 0.1, rtol=1e-5)
    np.testing.assert_allclose([v.item() for v in settings.decays()], 1e-3, rtol=1e-5)
    assert len(example.RATES) * len(example.DECAYS) == 16
    parts = example.load(train=200, val=400, seed=0)
    assert [len(part["target"]) for part in parts] == [200, 400, 1197]
