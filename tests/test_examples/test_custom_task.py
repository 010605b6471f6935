"""The subclassing example: it learns to augment, and a seed decides everything."""

import importlib.util
from pathlib import Path
import sys

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "custom_task.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("custom_task", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def run(example, folder, *options):
    return example.run(example.parser().parse_args(["--output", str(folder), *options]))


def test_the_learned_augmentation_helps(example, tmp_path, capsys):
    results = run(example, tmp_path)
    assert 0.2 < results["strength"] < 1.0
    assert results["learned"] > results["none"] + 0.05
    assert "learned strength" in capsys.readouterr().out
    assert "strength" in (tmp_path / "metrics.csv").read_text().splitlines()[0]
    assert list(tmp_path.glob("events.out.tfevents*"))
    assert (tmp_path / "custom_task.png").read_bytes().startswith(b"\x89PNG")


def test_a_seed_fixes_every_number(example, tmp_path):
    logs = {}
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        run(example, tmp_path / name, "--steps", "5", "--final-steps", "1", "--seed", seed)
        logs[name] = (tmp_path / name / "metrics.csv").read_text()
    assert logs["a"] == logs["b"] != logs["c"]
