"""Fits on several ranks end where one process with the same loaders does."""

import numpy as np
import pytest
from test_distributed.fits import CASES, PROBLEM

LIMIT = 1e-5  # relative; rounding makes 3e-7


@pytest.fixture(scope="module")
def found(run, tmp_path_factory):
    """What each rank of 1, 2 and 3 found, by their number."""
    by_ranks = {}
    for ranks in (1, 2, 3):
        folder = tmp_path_factory.mktemp(f"ranks{ranks}")
        done = run(ranks, "fits.py", folder)
        assert done.returncode == 0, done.stderr[-4000:]
        by_ranks[ranks] = [dict(np.load(folder / f"{rank}.npz")) for rank in range(ranks)]
    return by_ranks


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_every_rank_ends_where_one_process_does(found, case, ranks):
    (alone,) = found[1]
    keys = [key for key in alone if key.startswith(f"{case}/")]
    for own in found[ranks]:
        for key in keys:
            size = np.abs(alone[key]).max()
            assert size > 0
            np.testing.assert_allclose(own[key], alone[key], rtol=0, atol=LIMIT * size, err_msg=key)


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_agree_to_the_bit(found, ranks):
    first, *others = found[ranks]
    for own in others:
        assert own.keys() == first.keys() == found[1][0].keys()
        for key, value in own.items():
            np.testing.assert_array_equal(value, first[key], err_msg=key)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_first_step_is_that_of_the_whole_batch(found, ranks):
    def momentum(params, grads, state, step):
        velocity = grads if state is None else [0.9 * v + g for v, g in zip(state, grads, strict=True)]
        return [p - 0.3 * v for p, v in zip(params, velocity, strict=True)], velocity

    exact = PROBLEM.unrolled(PROBLEM.weights.astype(np.float64), 6, momentum)
    np.testing.assert_allclose(found[ranks][0]["one batch/ul_loss"][0], exact, rtol=1e-6)


def test_every_fit_has_moved(found):
    for case in CASES:
        assert np.abs(found[1][0][f"{case}/ul_model.value"] - PROBLEM.weights).max() > 0.01
