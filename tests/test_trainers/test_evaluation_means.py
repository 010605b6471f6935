"""What a batch weighs in the means of an evaluation, what a metric may be, and integers of 64 bits in batches."""

from jboat import BilevelTrainer
from jboat.callbacks import LambdaCallback
import jittor as jt
import numpy as np
import pytest
import small_trainers


def make(metric=None, **kwargs):
    return small_trainers.make(metrics={} if metric is None else {"mine": metric}, **kwargs)


def share(batch, ul_model, ll_model):
    return float(batch["ok"].numpy().mean())


def ok(ones, zeros=0):
    return np.array([1.0] * ones + [0.0] * zeros, "float32")


def test_a_number_beside_the_samples_has_no_say():
    scale = np.ones(1, "float32")
    batches = [{"scale": scale, "ok": ok(4)}, {"scale": scale, "ok": ok(0, 1)}]
    assert make(share).evaluate(batches)["mine"] == pytest.approx(4 / 5)


GRAPHS = [{"nodes": np.ones((7, 2), "float32"), "ok": ok(3)}, {"nodes": np.ones((9, 2), "float32"), "ok": ok(0, 1)}]


def test_sizes_that_differ_are_told_of_once_and_not_guessed(caplog):
    trainer = make(share)
    for _ in range(2):
        assert trainer.evaluate(GRAPHS)["mine"] == pytest.approx(1 / 2)
    (message,) = [r.getMessage() for r in caplog.records]
    assert "'nodes': [9, 2], 'ok': [1]" in message or "'nodes': [7, 2], 'ok': [3]" in message
    assert "'batch_size'" in message
    caplog.clear()
    make(share).evaluate(GRAPHS[0])  # of one batch the size does not matter
    assert caplog.records == []


def test_the_size_can_be_given_in_the_batch_or_by_a_method(caplog):
    sized = [{**GRAPHS[0], "batch_size": 3}, {**GRAPHS[1], "batch_size": np.int64(1)}]
    assert make(share).evaluate(sized)["mine"] == pytest.approx(3 / 4)

    class Mine(BilevelTrainer):
        def evaluation_batch_size(self, batch):
            return len(batch["ok"])

    assert make(share, trainer_class=Mine).evaluate(GRAPHS)["mine"] == pytest.approx(3 / 4)
    assert caplog.records == []
    for bad in (0, 2.5, "3", True):
        with pytest.raises(ValueError, match=f"entry 'batch_size' of a batch must be an integer >= 1, got {bad!r}"):
            make(share).evaluate([{**GRAPHS[0], "batch_size": bad}])


def test_a_metric_that_some_batches_lack_is_the_mean_of_the_others():
    class Mine(BilevelTrainer):
        def evaluation_step(self, batch):
            return {"all": 1.0, **({"rare": 5.0} if "rare" in batch else {})}

    assert make(None, trainer_class=Mine).evaluate([{}, {"rare": True}, {}]) == {"all": 1.0, "rare": 5.0}


def test_means_are_those_of_float64():
    """500 samples of which 470 are right, in one batch, in batches of 7 and one by one."""
    right = np.random.default_rng(0).permutation(ok(470, 30))

    def accuracy(batch, ul_model, ll_model):
        return batch["ok"].mean()

    for size in (500, 7, 1):
        batches = [{"ok": right[i : i + size]} for i in range(0, 500, size)]
        assert make(accuracy).evaluate(batches)["mine"] == pytest.approx(0.94, abs=2e-8)


@pytest.mark.parametrize(
    ("value", "given"),
    [
        (None, "None"),
        ("0.5", "'0.5'"),
        (np.ones(3), r"an array of shape \[3\]; take its mean\(\)"),
        (jt.ones((2, 2)), r"an array of shape \[2, 2\]"),
        ([1.0], r"\[1\.0\]"),
        (1j, "1j"),
    ],
)
def test_a_metric_that_is_no_number_is_named(value, given):
    with pytest.raises(TypeError, match=f"metric 'mine' of an evaluation must be one number, got {given}"):
        make(lambda batch, ul_model, ll_model: value).evaluate({})

    def publish(trainer, state):
        state.metrics["published"] = value

    with pytest.raises(TypeError, match=f"metric 'published' of a callback.* must be one number, got {given}"):
        make(callbacks=[LambdaCallback(on_step_end=publish)]).fit({}, {})


@pytest.mark.parametrize(
    "value", [2, True, np.float32(2.0), np.array([2.0]), np.array(2), np.int64(2), jt.array([2.0])]
)
def test_one_number_in_any_dress(value):
    expected = float(value is True) or 2.0
    assert make(lambda batch, ul_model, ll_model: value).evaluate({})["mine"] == expected

    def publish(trainer, state):
        state.metrics["published"] = value

    history = make(callbacks=[LambdaCallback(on_step_end=publish)]).fit({}, {})
    assert history["published"] == [expected]


@pytest.mark.parametrize("dtype", ["int64", "uint32", "uint64"])
def test_integers_that_do_not_fit_into_32_bits_stay_whole(dtype):
    large = np.array([1, 2**31 + 5, 2**32 - 1], dtype)
    seen = []

    def look(batch, ul_model, ll_model):
        seen.append(batch["ids"].numpy())
        return 0.0

    make(look).evaluate([{"ids": large}, {"ids": np.array([-5, 2**40]) if dtype == "int64" else large}])
    np.testing.assert_array_equal(seen[0].astype(np.uint64), large.astype(np.uint64))
    if dtype == "int64":
        np.testing.assert_array_equal(seen[1], [-5, 2**40])
    make(look).evaluate({"ids": np.array([1, 2**31 - 1], dtype)})
    assert (str(seen[-1].dtype), seen[-1].tolist()) == ("int32", [1, 2**31 - 1])


def test_integers_that_do_not_fit_into_64_bits_are_refused():
    with pytest.raises(ValueError, match=f"loader: 'ids' of a batch holds {2**63}, which is more than int64 can"):
        make().evaluate({"ids": np.array([2**63], np.uint64)})


def test_a_memmap_is_an_array(tmp_path):
    mapped = np.memmap(tmp_path / "ok", dtype="float32", mode="w+", shape=(4,))
    mapped[:] = ok(3, 1)
    assert make(share).evaluate({"ok": mapped})["mine"] == pytest.approx(3 / 4)
