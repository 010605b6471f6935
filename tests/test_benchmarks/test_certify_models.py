"""Models are certified by differences of a plain loop, and wrong second derivatives are seen by them."""

import json
from pathlib import Path
import sys

import jittor as jt
from jittor import nn
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from certification import NOT_TRIED, TOLERANCE, certify
from certified_models import CASES, Case, Mean
import certify_models
from double_precision import double_precision

ROOT = Path(__file__).parents[2]


class Doubled(jt.Function):
    """2 x^2 with a gradient whose own derivative is zero."""

    def execute(self, x):
        self.saved = x
        return 2.0 * x * x

    def grad(self, g):
        return 4.0 * self.saved.detach() * g


@pytest.mark.parametrize("name", ["LayerNorm", pytest.param("max pooling", marks=pytest.mark.long)])
def test_right_models_are_certified(name):
    found = certify(CASES[name])
    for method in ("RAD", "CG"):
        assert found[method]["verdict"] == "right"
        assert max(found[method]["error"], found[method]["difference_error"]) <= TOLERANCE
        assert found[method]["cosine"] > 0.999


def layers():
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 5))


def convolutions():
    return nn.Sequential(nn.Conv(3, 4, 3), nn.BatchNorm(4), nn.ReLU(), nn.MaxPool2d(2, 2), Mean(1), nn.Linear(4, 5))


@pytest.mark.parametrize(
    ("make", "shape"), [(layers, (6,)), pytest.param(convolutions, (3, 6, 6), marks=pytest.mark.long)]
)
def test_a_network_with_kinks_is_certified_by_rad_as_it_is_and_by_cg_where_it_is_smooth(make, shape):
    network = Case(make, shape, kinks=True)
    own, smooth = certify(network), certify(network, smooth_activations=True)
    assert own["CG"] == {"verdict": NOT_TRIED}
    assert [own["RAD"]["verdict"], smooth["RAD"]["verdict"], smooth["CG"]["verdict"]] == ["right"] * 3
    assert max(own["RAD"]["error"], smooth["RAD"]["error"]) < 1e-5
    assert own["RAD"]["error"] != smooth["RAD"]["error"]


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": (1, 3), "padding": (0, 1)},
        {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 2},
        {"kernel_size": 3, "stride": 2, "groups": 4, "bias": False},
        {"kernel_size": 1, "stride": 2},
    ],
)
def test_the_loops_convolution_is_that_of_jittor(options):
    layer = nn.Conv(4, 8, **options)
    layer.float64()
    values = np.random.default_rng(0).normal(size=(2, 4, 7, 9))

    def found():
        x = jt.array(values, dtype="float64")
        y = layer(x)
        cosines = jt.array(np.cos(np.arange(y.numel())).reshape(y.shape), dtype="float64")
        return [v.numpy() for v in (y, *jt.grad((y * y * cosines).sum(), [x, *layer.parameters()]))]

    expected = found()
    with double_precision():
        for mine, jittors in zip(found(), expected, strict=True):
            assert mine.dtype == np.float64
            assert np.abs(mine - jittors).max() < 1e-14 * np.abs(jittors).max()


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
    rows.append({"model": "alexnet of old", "activations": "own", "failure": "ended"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert certify_models.main([*where, "LayerNorm"]) == 0
    assert (
        "| LayerNorm | own | 1,101 | 1.0e-03 | 2.0e-03 | right | 1.0e-03 | 2.0e-03 | right |\n"
        "| LSTM | own | 7 | 1.0e-03 | 2.0e-03 | **wrong** | 1.0e-03 | 2.0e-03 | right |\n"
        "| GRU | own | stopped at its limit | | | | | | |\n"
        "\nNot run: attention, "
    ) in page.read_text()


def test_the_page_is_made_of_the_rows():
    rows = certify_models.read(ROOT / "benchmarks" / "results" / "certified_models.jsonl")
    assert (ROOT / "docs" / "certified-models.md").read_text() == certify_models.page(rows)


def test_every_model_is_certified():
    rows = certify_models.read(ROOT / "benchmarks" / "results" / "certified_models.jsonl")
    names = {row["model"] for row in rows}
    right = {m: {row["model"] for row in rows if row[m]["verdict"] == "right"} for m in ("RAD", "CG")}
    assert right == {"RAD": names, "CG": names}
    assert not [row for row in rows for method in ("RAD", "CG") if row[method]["verdict"] == "wrong"]
    assert names == set(CASES)
