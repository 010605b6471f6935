"""What ranks tell each other, and derivatives of what is summed over them."""

import json

import numpy as np
import pytest


@pytest.fixture(scope="module", params=[2, 3])
def found(request, run, tmp_path_factory):
    """The number of ranks, and what they have found, which is the same on all."""
    folder = tmp_path_factory.mktemp("found")
    done = run(request.param, "reductions.py", folder)
    assert done.returncode == 0, done.stderr[-4000:]
    texts = [(folder / f"{rank}.json").read_text() for rank in range(request.param)]
    assert set(texts) == {texts[0]}
    return request.param, json.loads(texts[0])


def test_numbers(found):
    n, got = found[0], found[1]["numbers"]
    weights = np.arange(1, n + 1)
    assert got["gathered"] == [[rank + 0.25, 1e300 * rank] for rank in range(n)]
    assert got["sum"] == pytest.approx([n * (n + 1) / 2, 0.1 * n], rel=1e-15)
    assert got["mean"] == pytest.approx([np.arange(n) @ weights / weights.sum()], rel=1e-15)
    assert got["without rank 0"] == [3.0]
    assert (got["bytes"], got["nothing"]) == (f"said by {n - 1}", "")


def test_variables(found):
    n, got = found[0], found[1]["variables"]
    last = n - 1
    assert got["broadcast"] == {
        "float32": [float(np.float32(last + 0.1))] * 3,
        "float64": [[last + 0.1] * 2] * 2,
        "int64": [2**40 + last],
        "bool": [True],
        "empty": [],
        "stopped": [float(last)],
    }
    assert got["dtypes"] == {name: name for name in ("float32", "float64", "int64", "bool")} | {
        "empty": "float32",
        "stopped": "float32",
    }
    assert got["stop_grad"] == {name: name in ("int64", "bool", "stopped") for name in got["dtypes"]}
    wide, narrow, empty, double, half = got["mean"]
    assert (wide, narrow, empty) == ([[last / 2] * 3] * 2, [1.0, 2.0], [])
    assert double == pytest.approx([0.1], rel=1e-15)
    assert half == pytest.approx([0.25 * last, 1.0], rel=1e-3)
    assert got["mean's dtypes"] == ["float32", "float32", "float32", "float64", "float16"]


def exact_derivatives(n):
    """Of ``S (w_0^5).sum() + n (w_1^3 w_2).sum() + S (w_1^2).sum()``, each of the sum of the last one's entries."""
    a, b, c = np.array([[1.0, 2.0], [0.5, -1.0]]), np.array([1.5, -2.0]), 3.0
    s, zero = n * (n + 1) / 2, np.zeros(2)
    by_b = [3 * b**2 * c * n + 2 * s * b, 6 * b * c * n + 2 * s + 3 * b**2 * n, 6 * c * n + 12 * b * n, 18 * n + zero]
    by_c = [n * (b**3).sum(), n * (3 * b**2).sum(), n * (6 * b).sum(), n * 12.0]
    by_a = [5 * a**4 * s, 20 * a**3 * s, 60 * a**2 * s, 120 * a * s]
    return s * (a**5).sum() + n * (b**3).sum() * c + s * (b**2).sum(), by_a, by_b, by_c


def test_derivatives_up_to_the_fourth(found):
    n, got = found[0], found[1]["derivatives"]
    value, *by = exact_derivatives(n)
    assert got["value"] == pytest.approx(value, rel=1e-6)
    for order in range(4):
        for mine, exact in zip(got[f"order {order + 1}"], by, strict=True):
            np.testing.assert_allclose(np.reshape(mine, np.shape(exact[order])), exact[order], rtol=1e-6)


def test_only_what_is_asked_for_is_reduced(found):
    x, y = 4 * (2 + 3), 4 * 2
    assert found[1]["traffic"] == {"x": [1, x, 0], "y": [1, y, 0], "both": [2, x + y, 0]}


def test_what_is_counted_is_what_jittor_runs(found):
    got = found[1]["executed"]
    assert got["run"] == got["counted"] == 2


def test_nothing_is_left_of_a_step(found):
    before, after = found[1]["alive"]["alive"]
    assert after == before


def test_other_numbers_of_lower_steps_compile_nothing(found):
    first, *others = found[1]["kernels"]
    assert first > 0
    assert others == [0, 0]


def test_random_numbers_differ_by_rank_and_what_comes_of_them_does_not(found):
    noise, values = found[1]["drawn"]["noise"], found[1]["drawn"]["values"]
    assert len({tuple(row) for row in noise}) == found[0]
    assert all(row == values[0] for row in values)


def test_sums_of_any_length_have_the_same_bits(found):
    assert len(set(found[1]["bits"].values())) == 4  # that all ranks have said the same, the fixture has seen


def test_a_loss_of_two_batches_with_unequal_shares_is_refused(found):
    assert "unequal shares" in found[1]["unequal"]["says"]


def test_means_weigh_the_ranks(found):
    n, got = found[0], found[1]["returned_itself"]
    scale = (2 * n + 1) / 3  # the mean of r + 1 where r + 1 is the weight
    assert (got["one"], got["kept"]) == pytest.approx((3.0, 3.0), rel=1e-6)
    assert got["scaled"] == pytest.approx(6.0 * scale, rel=1e-6)
    assert got["by"] == pytest.approx([3.0 * scale, 2.0 * scale], rel=1e-6)


def test_an_upper_variable_outside_of_the_upper_model(found):
    n, got = found[0], found[1]["elsewhere"]
    assert got["by"] == pytest.approx(3.0 * (n + 1) / 2, rel=1e-6)
