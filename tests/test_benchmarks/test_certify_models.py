"""Models are certified by differences of a plain loop, and wrong second derivatives are seen by them."""

import json
from pathlib import Path
import sys

import jittor as jt
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from certification import TOLERANCE, certify
from certified_models import CASES
import certify_models

ROOT = Path(__file__).parents[2]


class Doubled(jt.Function):
    """2 x^2 with a gradient whose own derivative is zero."""

    def execute(self, x):
        self.saved = x
        return 2.0 * x * x

    def grad(self, g):
        return 4.0 * self.saved.detach() * g


@pytest.mark.parametrize("name", ["LayerNorm", "max pooling"])
def test_right_models_are_certified(name):
    found = certify(CASES[name])
    for method in ("RAD", "CG"):
        assert found[method]["verdict"] == "right"
        assert max(found[method]["error"], found[method]["difference_error"]) <= TOLERANCE
        assert found[method]["cosine"] > 0.999


def test_a_wrong_second_derivative_is_not_certified():
    def changed(model):
        execute = model.execute
        model.execute = lambda x: Doubled.apply(execute(x))

    found = certify(CASES["LayerNorm"], changed=changed)
    assert [found[method]["verdict"] for method in ("RAD", "CG")] == ["wrong", "wrong"]


def test_the_table_is_made_of_the_rows_and_what_is_there_is_not_run_again(tmp_path):
    right = {"error": 0.001, "cosine": 1.0, "difference_error": 0.002, "verdict": "right"}
    rows = [
        {"model": "LayerNorm", "activations": "own", "parameters": 1101, "RAD": right, "CG": right},
        {"model": "GRU", "activations": "own", "failure": "stopped at its limit"},
        {"model": "LSTM", "activations": "own", "parameters": 7, "RAD": {**right, "verdict": "wrong"}, "CG": right},
    ]
    path, page = tmp_path / "rows.jsonl", tmp_path / "page.md"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    where = ["--rows", str(path), "--page", str(page), "--only"]
    assert certify_models.main([*where, "LayerNorm"]) == 0
    assert certify_models.main([*where, "LayerNorm", "GRU"]) == 1
    assert certify_models.main([*where, "LayerNorm", "LSTM"]) == 1
    assert certify_models.read(path) == rows
    assert (
        "| LayerNorm | own | 1,101 | 1.0e-03 | 2.0e-03 | right | 1.0e-03 | 2.0e-03 | right |\n"
        "| GRU | own | stopped at its limit | | | | | | |\n"
        "| LSTM | own | 7 | 1.0e-03 | 2.0e-03 | **wrong** | 1.0e-03 | 2.0e-03 | right |\n"
        "\nNot run: attention, "
    ) in page.read_text()


def test_the_page_is_made_of_the_rows():
    rows = certify_models.read(ROOT / "benchmarks" / "results" / "certified_models.jsonl")
    assert (ROOT / "docs" / "certified-models.md").read_text() == certify_models.table(rows, TOLERANCE)
