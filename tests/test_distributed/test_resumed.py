"""A run saved with some number of ranks goes on with another, in the same order of samples."""

import numpy as np
import pytest

LIMIT = 1e-5


@pytest.fixture(scope="module")
def found(run, tmp_path_factory):
    """What ranks ended with, by (ranks that saved, ranks that went on), the latter 0 where nothing was interrupted."""
    ends = {}
    for saved in (1, 2):
        folder = tmp_path_factory.mktemp(f"saved{saved}")
        for ranks in (0, 1, 2) if saved == 2 else (0, 2):
            name, number = f"on{ranks}", ranks or saved
            done = run(number, "resumed.py", folder, name, "resume" if ranks else "save")
            assert done.returncode == 0, done.stderr[-4000:]
            ends[saved, ranks] = [dict(np.load(folder / f"{name}-{rank}.npz")) for rank in range(number)]
    return ends


def test_the_same_number_of_ranks_goes_on_to_the_bit(found):
    for whole, resumed in zip(found[2, 0], found[2, 2], strict=True):
        for key, value in whole.items():
            np.testing.assert_array_equal(resumed[key], value, err_msg=key)


@pytest.mark.parametrize(("saved", "resumed"), [(2, 1), (1, 2)])
def test_another_number_of_ranks_goes_on_with_the_same_samples(found, saved, resumed):
    whole = found[saved, 0][0]
    for own in found[saved, resumed]:
        for key, value in whole.items():
            np.testing.assert_allclose(own[key], value, rtol=0, atol=LIMIT * np.abs(value).max(), err_msg=key)
        np.testing.assert_array_equal(own["loaders/ul_loss"][:7], whole["loaders/ul_loss"][:7])


def test_last_is_found_by_all_ranks(found):
    for own in found[2, 2] + found[1, 2]:
        np.testing.assert_array_equal(own["loaders/again"], own["loaders/ul_loss"])


@pytest.mark.parametrize("kind", ["loaders", "tasks"])
def test_one_and_two_ranks_train_alike(found, kind):
    alone, both = found[1, 0][0], found[2, 0][0]
    for key in (f"{kind}/ul_loss", f"{kind}/ul_model.value"):
        np.testing.assert_allclose(both[key], alone[key], rtol=0, atol=LIMIT * np.abs(alone[key]).max(), err_msg=key)
