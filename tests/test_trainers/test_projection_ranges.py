"""Projections at the ends of float32, of other dtypes, of nothing, and with levels that leave their range."""

from jboat import projections
import jittor as jt
import numpy as np
import pytest


def np_simplex(v, total):
    u = np.sort(v)[::-1]
    level = ((np.cumsum(u) - total) / np.arange(1, len(v) + 1)).max()
    return np.maximum(v - level, 0.0)


@pytest.mark.parametrize(
    ("values", "total"),
    [([1e8, 1e8 - 8, 1.0], 1.0), ([3e7, -3e7], 1.0), ([0.5, 2.0, 1.0], 1e-9), ([-1e9, -1e9, -1e9], 3.0)],
)
def test_a_simplex_holds_where_the_total_is_lost_among_the_entries(values, total):
    values = np.asarray(values, dtype=np.float32)
    [found] = projections.simplex(total)([jt.array(values)])
    expected = np_simplex(values.astype(np.float64), total)
    assert np.allclose(found.numpy(), expected, rtol=1e-6, atol=1e-6 * total)


@pytest.mark.parametrize("name", ["simplex", "l2_ball", "nonnegative", "box"])
def test_no_variables_stay_none(name):
    assert getattr(projections, name)()([]) == []


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("soft_threshold", -1.0),
        ("soft_threshold", np.nan),
        ("l2_ball", 0.0),
        ("l2_ball", np.nan),
        ("simplex", -1.0),
        ("simplex", np.nan),
    ],
)
def test_a_level_that_leaves_its_range_is_no_projection(name, bad):
    values = [jt.array([0.3, 0.2])]
    function = getattr(projections, name)
    with pytest.raises(ValueError, match=f"{name}: "):
        function(lambda: bad)(values)
