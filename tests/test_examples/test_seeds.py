"""A seed fixes every number that an example logs, and another seed gives others."""

from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = {
    "architecture_search": ["--steps", "2", "--random", "1", "--final-steps", "1", "--searches", "FD (DARTS)"],
    "compare_operators": ["--steps", "3"],
    "custom_task": ["--steps", "3", "--final-steps", "2"],
    "data_hyper_cleaning": ["--steps", "3", "--final-steps", "2"],
    "data_reweighting": ["--steps", "2"],
    "l2_regularization": ["--data", "digits", "--steps", "3", "--final-steps", "2"],
    "learned_optimizer": ["--steps", "20"],
    "meta_learning": ["--steps", "2", "--test-tasks", "2", "--methods", "MAML"],
}


def test_no_example_is_left_out():
    assert sorted(SMALL) == sorted(path.stem for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("name", SMALL)
def test_a_seed_fixes_every_number(name, load, tmp_path):
    example = load(name)
    logs = {}
    for folder, seed in (("a", "2"), ("b", "2"), ("c", "3")):
        args = example.parser().parse_args(["--output", str(tmp_path / folder), "--seed", seed, *SMALL[name]])
        if name == "compare_operators":
            example.measure("RAD", args)  # in this process
        else:
            example.run(args)
        files = sorted((tmp_path / folder).rglob("metrics.csv"))
        logs[folder] = [file.read_text() for file in files]
    assert logs["a"]
    assert logs["a"] == logs["b"] != logs["c"]
