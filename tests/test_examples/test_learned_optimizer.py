"""The example of learned settings: better than the best of a grid of fixed ones, in a fraction of its time."""

import numpy as np
import pytest


@pytest.mark.alone  # the example compares its own times
@pytest.mark.parametrize("count", [1, pytest.param(3, marks=pytest.mark.long)])
def test_learned_settings_beat_the_best_of_the_grid_in_less_time(count, run, tmp_path, capsys):
    runs = [run(tmp_path / str(seed), "--seed", str(seed)) for seed in range(count)]
    medians = {name: np.median([results[name] for results in runs]) for name in runs[0]}
    assert all(results["learned_val_loss"] < 0.99 * results["start_val_loss"] for results in runs)
    assert medians["learned_loss"] < 0.98 * medians["grid_loss"]
    assert medians["learned_accuracy"] > medians["grid_accuracy"] - 0.01
    assert medians["learned_seconds"] < 0.5 * medians["grid_seconds"]
    printed = capsys.readouterr().out
    assert "best of 16" in printed
    assert "layer 1: learning rate" in printed
    assert all(results["first_decay"] > 5 * results["second_decay"] for results in runs)
    assert (tmp_path / "0/learned_optimizer.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "0/metrics.csv").exists()


def test_every_layer_has_settings_of_its_own_and_no_digit_is_used_twice(example):
    settings = example.Settings([0, 0, 1, 1], 0.1, 1e-3)
    assert len(settings.rates()) == len(settings.decays()) == 4
    np.testing.assert_allclose([v.item() for v in settings.rates()], 0.1, rtol=1e-5)
    np.testing.assert_allclose([v.item() for v in settings.decays()], 1e-3, rtol=1e-5)
    assert len(example.RATES) * len(example.DECAYS) == 16
    parts = example.load(train=200, val=1000, seed=0)
    assert [len(part["target"]) for part in parts] == [200, 1000, 597]
    seen = np.concatenate([part["data"] for part in parts])
    assert len(np.unique(seen, axis=0)) == len(seen)


def test_the_test_part_is_the_same_for_every_seed_and_the_others_are_not(example):
    first, second = (example.load(train=200, val=400, seed=seed) for seed in (0, 10))
    np.testing.assert_array_equal(first[2]["data"], second[2]["data"])
    assert all(not np.array_equal(a["data"], b["data"]) for a, b in zip(first[:2], second[:2], strict=True))
    with pytest.raises(SystemExit, match="take 1201 of 1200 digits"):
        example.load(train=1, val=1200, seed=0)
