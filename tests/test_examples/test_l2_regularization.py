"""The regularisation example: learned weights beat the best single one, and tell noise from signal."""

import importlib.util
from pathlib import Path
import sys

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "l2_regularization.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("l2_regularization", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def run(example, folder, *options):
    return example.run(example.parser().parse_args(["--output", str(folder), *options]))


def test_learned_weights_beat_the_best_single_one(example, tmp_path, capsys):
    results = run(example, tmp_path, "--steps", "60", "--final-steps", "100")
    assert results["loss"] < 0.85 * results["single_loss"]
    assert results["accuracy"] > results["single_accuracy"]
    assert results["noise_to_signal"] > 3.0
    assert "lower the test loss by" in capsys.readouterr().out
    assert (tmp_path / "l2_regularization.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "metrics.csv").exists()


def test_a_seed_fixes_every_number(example, tmp_path):
    logs = {}
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        run(example, tmp_path / name, "--steps", "3", "--final-steps", "2", "--seed", seed)
        logs[name] = (tmp_path / name / "metrics.csv").read_text()
    assert logs["a"] == logs["b"] != logs["c"]
