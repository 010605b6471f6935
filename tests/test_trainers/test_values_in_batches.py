"""What numpy has of kinds of numbers reaches the objectives as the numbers that they are."""

import jittor as jt
import numpy as np
from problems import Point
import pytest
import small_trainers

K, RATE = 3, 0.5
X = np.array([3.0, -2.0])


def lower(batch, ul_model, ll_model):
    error = ll_model() - ul_model() * batch["scale"]
    return 0.5 * (error * error).sum()


def upper(batch, ul_model, ll_model):
    error = ll_model() - 1.0
    return 0.5 * (error * error).sum()


def make(**options):
    levels = {"ll_model": Point(np.zeros(2)), "ul_model": Point(X), "ll_objective": lower, "ul_objective": upper}
    return small_trainers.make(ll_lr=RATE, **{**levels, "lower_iters": K, **options})


def exact(scale):
    y = X * np.asarray(scale, dtype=np.float64) * (1.0 - (1.0 - RATE) ** K)
    return 0.5 * np.sum((y - 1.0) ** 2)


@pytest.mark.parametrize(
    "dtype", [">f4", ">f8", ">f2", ">i2", ">u2", ">i4", ">i8", ">u4", "longdouble", "<f4", "<f8", "f2", "u1", "i8"]
)
def test_arrays_of_any_byte_order_and_width(dtype):
    found = make().hypergradient({"scale": np.array([2, 3]).astype(dtype)}, {})
    assert found.upper_loss == pytest.approx(exact([2, 3]), rel=1e-6)


@pytest.mark.parametrize("value", [2**40, np.int64(2**40), np.uint64(2**40)])
def test_integers_that_do_not_fit_into_32_bits(value):
    assert make().hypergradient({"scale": value}, {}).upper_loss == pytest.approx(exact(2**40), rel=1e-6)


@pytest.mark.parametrize("kind", [list, tuple])
def test_lists_of_integers_that_do_not_fit_into_32_bits(kind):
    def by_identity(batch, ul_model, ll_model):
        return lower({"scale": jt.array(batch["scale"])}, ul_model, ll_model)

    found = make(ll_objective=by_identity).hypergradient({"scale": kind([2**40, 3])}, {})
    assert found.upper_loss == pytest.approx(exact([2**40, 3]), rel=1e-6)


@pytest.mark.parametrize("value", [[1, 2], ["a", 2**40], [[2**40], [1, 2]], [None, 2**40], [2**70]])
def test_other_lists_stay_what_they_are(value):
    seen = []

    def watched(batch, ul_model, ll_model):
        seen.append(batch["names"])
        return lower({"scale": 1.0}, ul_model, ll_model)

    make(ll_objective=watched).hypergradient({"names": value}, {})
    assert seen[0] == value


def test_what_turns_into_an_array():
    class Frame:
        def __array__(self, dtype=None, copy=None):
            return np.array([2.0, 3.0])

    assert make().hypergradient({"scale": Frame()}, {}).upper_loss == pytest.approx(exact([2, 3]), rel=1e-6)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([1, None]), "'scale' of a batch has dtype object"),
        (np.array(["a", "b"]), "'scale' of a batch has dtype <U1"),
        (np.array([1j, 2j]), "'scale' of a batch has dtype complex128"),
        (np.ma.array([1.0, 2.0], mask=[False, True]), "masked entries"),
    ],
)
def test_what_is_no_array_of_numbers_is_named(value, message):
    with pytest.raises(TypeError, match=message):
        make().hypergradient({"scale": value}, {})


def test_counts_may_be_numpys():
    trainer = make(lower_iters=np.int64(K), accumulate=np.int32(1), seed=np.int64(5))
    history = trainer.fit({"scale": 1.0}, {}, max_steps=np.int64(2))
    assert history["ul_loss"][0] == pytest.approx(exact(1.0), rel=1e-6)
    assert len(history["ul_loss"]) == 2


def test_a_metric_does_not_replace_the_upper_loss():
    with pytest.raises(ValueError, match="'ul_loss' is the upper loss"):
        make(metrics={"ul_loss": lambda batch, ul_model, ll_model: 7.0})


@pytest.mark.parametrize(
    ("name", "hint"), [("bset", "Did you mean 'best'"), ("lst", "Did you mean 'last'"), ("x/y.npz", "")]
)
def test_a_checkpoint_that_is_not_there_is_not_damaged(name, hint):
    with pytest.raises(ValueError, match=f"there is no file {name}.*{hint}"):
        make().fit({"scale": 1.0}, {}, max_steps=1, resume_from=name)


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="a checkpoint's path, 'last' or 'best'"):
        make().fit({"scale": 1.0}, {}, max_steps=1, resume_from=tmp_path)
