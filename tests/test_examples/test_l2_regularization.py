"""The regularisation example: learned weights beat the best single one, and tell noise from signal."""


def test_learned_weights_beat_the_best_single_one(run, tmp_path, capsys):
    results = run(tmp_path, "--steps", "60", "--final-steps", "100")
    assert results["loss"] < 0.85 * results["single_loss"]
    assert results["accuracy"] > results["single_accuracy"]
    assert results["noise_to_signal"] > 3.0
    assert "lower the test loss by" in capsys.readouterr().out
    assert (tmp_path / "l2_regularization.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "metrics.csv").exists()


def test_a_seed_fixes_every_number(run, tmp_path):
    logs = {}
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        run(tmp_path / name, "--steps", "3", "--final-steps", "2", "--seed", seed)
        logs[name] = (tmp_path / name / "metrics.csv").read_text()
    assert logs["a"] == logs["b"] != logs["c"]
