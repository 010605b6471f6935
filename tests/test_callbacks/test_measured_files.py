"""Files that give back the parameters at which a step's own metric was measured, wherever they come to lie."""

import copy
import errno
from functools import partial
import logging
import math
import os
import signal

from jboat import BilevelTrainer
from jboat.callbacks import EarlyStopping, LambdaCallback, ModelCheckpoint
from jboat.trainers.persistence import archive
from jboat.trainers.persistence.checkpoint import CheckpointError
import jittor as jt
import numpy as np
from problems import Quadratic
import pytest
import small_trainers

UL_LR = 0.3  # the upper loss rises to its second step and falls from there


make = partial(small_trainers.make, lower_iters=3, ul_lr=UL_LR)


def measuring(folder, **arguments):
    return ModelCheckpoint(folder, monitor="ul_loss", mode="max", **{"every_n_steps": 1, **arguments})


def newest(folder, **arguments):
    return ModelCheckpoint(folder, every_n_steps=1, **arguments)


def upper_loss_of(path):
    """F at what a file gives back, by numpy in float64."""
    trainer = make()
    trainer.load_checkpoint(path)
    x, y = (v.numpy().astype(np.float64) for v in (trainer.ul_var[0], trainer.ll_var[0]))
    return Quadratic().upper(y, x)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("reverse", [False, True])
def test_two_in_one_folder_give_back_each_its_own_parameters(reverse, tmp_path):
    def pair():
        savers = [measuring(tmp_path, save_top_k=2), newest(tmp_path, save_top_k=2)]
        return savers[::-1] if reverse else savers

    savers = pair()
    trainer = make(*savers)
    history = trainer.fit({}, {}, max_steps=3)
    after = trainer.values()
    assert names(tmp_path) == [
        *("best.npz", "last.npz", "step-00000001-measured.npz", "step-00000002-measured.npz"),
        *("step-00000002.npz", "step-00000003.npz"),
    ]
    best = savers[1 if reverse else 0].best_path
    assert best == tmp_path / "step-00000002-measured.npz"
    for path in (best, tmp_path / "best.npz"):
        assert upper_loss_of(path) == pytest.approx(max(history["ul_loss"]), rel=1e-5)
    for name in ("step-00000003.npz", "last.npz"):
        loaded = make()
        loaded.load_checkpoint(tmp_path / name)
        np.testing.assert_equal(loaded.values(), after)
    resumed = make(*pair())
    resumed.fit({}, {}, max_steps=5, resume_from="last")
    whole = make()
    whole.fit({}, {}, max_steps=5)
    np.testing.assert_equal(resumed.values(), whole.values())
    assert [n for n in names(tmp_path) if n.startswith("step")] == [
        *("step-00000001-measured.npz", "step-00000002-measured.npz", "step-00000004.npz", "step-00000005.npz")
    ]


def test_two_metrics_of_the_step_share_their_files(tmp_path):
    low = ModelCheckpoint(tmp_path, monitor="ul_loss", every_n_steps=1)
    high = measuring(tmp_path, every_n_seconds=1e9)
    history = make(low, high).fit({}, {}, max_steps=3)
    assert names(tmp_path) == ["best-2.npz", "best.npz", "last.npz", "step-00000002.npz", "step-00000003.npz"]
    for path, best in ((low.best_path, min), (low.best_file, min), (high.best_path, max), (high.best_file, max)):
        assert upper_loss_of(path) == pytest.approx(best(history["ul_loss"]), rel=1e-5)
    with pytest.raises(ValueError, match=r"resume_from='best' could mean .*/best\.npz, .*/best-2\.npz"):
        make(low, high).fit({}, {}, max_steps=4, resume_from="best")


@pytest.mark.parametrize("links", [True, False])
def test_the_best_of_another_folder_gives_back_what_was_measured(links, tmp_path, monkeypatch):
    def refuse(source, target):
        raise PermissionError(errno.EPERM, "Operation not permitted", source, None, target)

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    history = make(measuring(tmp_path / "a")).fit({}, {}, max_steps=3)
    second = measuring(tmp_path / "b")
    trainer = make(second)
    trainer.fit({}, {}, max_steps=4, resume_from=tmp_path / "a" / "last.npz")
    whole = make()
    whole.fit({}, {}, max_steps=4)
    np.testing.assert_equal(trainer.values(), whole.values())
    assert second.best_path == second.best_file == tmp_path / "b" / "best.npz"
    assert upper_loss_of(second.best_path) == pytest.approx(max(history["ul_loss"]), rel=1e-5)


def test_an_interrupt_right_after_a_resume_elsewhere_keeps_the_best(tmp_path):
    """The step that was resumed has no score in the new folder, but it is the best, and stays it."""
    history = make(measuring(tmp_path / "a")).fit({}, {}, max_steps=2)

    def fail(trainer, state):
        raise KeyboardInterrupt

    second = measuring(tmp_path / "b", save_top_k=3)
    trainer = make(LambdaCallback(on_step_start=fail), second)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit({}, {}, max_steps=3, resume_from=tmp_path / "a" / "last.npz")
    state = second.state_dict()
    assert state["saved"] == [[None, "step-00000002.npz"]]
    assert state["best"] == [-history["ul_loss"][1], "step-00000002.npz"]
    assert second.best_path == tmp_path / "b" / "best.npz"
    assert upper_loss_of(second.best_path) == pytest.approx(history["ul_loss"][1], rel=1e-5)
    third = measuring(tmp_path / "b", save_top_k=3)
    make(third).fit({}, {}, max_steps=2, resume_from="last")
    assert third.state_dict()["best"] == state["best"]
    assert upper_loss_of(third.best_path) == pytest.approx(history["ul_loss"][1], rel=1e-5)


def test_a_signal_names_the_file_that_goes_on_after_the_step(tmp_path, caplog):
    def send(trainer, state):
        if (state.step, state.inner_step) == (1, 2):
            signal.raise_signal(signal.SIGTERM)

    saver = measuring(tmp_path, every_n_steps=100)
    with caplog.at_level(logging.WARNING, "jboat"), pytest.raises(SystemExit):
        make(LambdaCallback(on_lower_step_end=send), saver).fit({}, {}, max_steps=9)
    assert saver.newest_path == tmp_path / "last.npz"
    assert f"the newest checkpoint is {tmp_path / 'last.npz'}; " in caplog.records[-1].getMessage()
    resumed, whole = make(measuring(tmp_path, every_n_steps=100)), make()
    resumed.fit({}, {}, max_steps=4, resume_from=saver.newest_path)
    whole.fit({}, {}, max_steps=4)
    np.testing.assert_equal(resumed.values(), whole.values())


STRANGE = {
    "no object": [1.0],
    "a variable missing": lambda saved: dict(list(saved.items())[:1]),
    "another variable": lambda saved: {**saved, "ul_model.other": np.zeros(2, "float32")},
    "another shape": lambda saved: {name: array[:1] for name, array in saved.items()},
    "another dtype": lambda saved: {name: array.astype("float64") for name, array in saved.items()},
    "numbers": lambda saved: {name: 1.0 for name in saved},
}


@pytest.mark.parametrize("what", STRANGE)
def test_what_cannot_have_been_measured_is_refused_and_changes_nothing(what, tmp_path):
    saver = measuring(tmp_path)
    make(saver).fit({}, {}, max_steps=2)
    tree = archive.read(saver.best_path)
    assert len(tree["measured"]) == 2
    strange = STRANGE[what]
    tree["measured"] = strange(tree["measured"]) if callable(strange) else strange
    archive.write(tmp_path / "e.npz", tree)
    trainer = make(measuring(tmp_path / "evil"))
    before = trainer.values()
    for load in (trainer.load_checkpoint, lambda path: trainer.fit({}, {}, max_steps=3, resume_from=path)):
        with pytest.raises(CheckpointError, match=r"e\.npz does not fit this trainer: measured"):
            load(tmp_path / "e.npz")
        np.testing.assert_equal(trainer.values(), before)


def test_scores_are_numbers_or_with_a_metric_absent(tmp_path):
    with_metric, without = measuring(tmp_path), newest(tmp_path)
    name = "step-00000001.npz"
    with_metric.check_state_dict(None, {"saved": [[None, name], [math.nan, name], [-math.inf, name]], "best": None})
    for saver, state in (
        (without, {"saved": [[None, name]], "best": None}),
        (with_metric, {"saved": [["1.0", name]], "best": None}),
        (with_metric, {"saved": [[True, name]], "best": None}),
        (with_metric, {"saved": [], "best": [None, name]}),
        (with_metric, {"saved": [], "best": [math.nan, name]}),
        (with_metric, {"saved": [[1.0, "step-00000001-other.npz"]], "best": None}),
    ):
        with pytest.raises(ValueError, match=r"is no score and name|the best cannot be"):
            saver.check_state_dict(None, state)


@pytest.mark.parametrize("scores", [[math.nan, 2.0, 1.0], [2.0, math.nan, 1.0], [1.0, math.inf, math.nan], [math.nan]])
def test_the_best_of_a_state_without_one_is_the_least_number(scores, tmp_path):
    """As files have it that were written before there was a best of its own, NaN wherever a sort left it."""
    saver = ModelCheckpoint(tmp_path, monitor="ul_loss", every_n_steps=1)
    make(saver).fit({}, {}, max_steps=1)
    listed = [[score, f"step-{9 + i:08d}.npz"] for i, score in enumerate(scores)]
    for _, name in listed:
        (tmp_path / name).write_bytes((tmp_path / "last.npz").read_bytes())
    tree = archive.read(tmp_path / "last.npz")
    [key] = [key for key in tree["callbacks"] if key.startswith("ModelCheckpoint")]
    tree["callbacks"][key] = {"saved": copy.deepcopy(listed)}
    archive.write(tmp_path / "last.npz", tree)
    again = ModelCheckpoint(tmp_path, monitor="ul_loss", every_n_steps=1)
    make(again).load_checkpoint(tmp_path / "last.npz")
    best = again.state_dict()["best"]
    assert best == min((e for e in listed if not math.isnan(e[0])), default=None)
    assert again.best_path == (None if best is None else tmp_path / best[1])


class Vector(jt.Module):
    def __init__(self, values, dtype):
        self.v = jt.array(np.array(values), dtype=dtype)


@pytest.mark.parametrize(("lower", "upper"), [("float32", "float64"), ("float64", "float32")])
@pytest.mark.parametrize("chain", [{}, {"na_op": ["PTT", "RAD"]}, {"gm_op": ["DM"]}, {"fo_op": "VFO"}], ids=str)
def test_in_mixed_dtypes_what_was_measured_comes_back(chain, lower, upper, tmp_path):
    def build(*callbacks):
        ll_model, ul_model = Vector([0.0, 0.5], lower), Vector([3.0, 2.0], upper)
        return BilevelTrainer(
            ll_model,
            ul_model,
            lambda batch, ul, ll: 0.5 * ((ll.v - ul.v) ** 2).sum(),
            lambda batch, ul, ll: 0.5 * ((ll.v - 1.0) ** 2).sum(),
            ll_optimizer=jt.optim.SGD(ll_model.parameters(), 0.25),
            ul_optimizer=jt.optim.SGD(ul_model.parameters(), 0.25),
            lower_iters=2,
            callbacks=callbacks,
            **chain,
        )

    def pair():
        return EarlyStopping("ul_loss", patience=9, restore_best=True), ModelCheckpoint(
            tmp_path, monitor="ul_loss", every_n_steps=1, save_top_k=-1
        )

    history = build(*pair()).fit({}, {}, max_steps=2)
    for step, loss in enumerate(history["ul_loss"], 1):
        loaded = build()
        loaded.load_checkpoint(tmp_path / f"step-{step:08d}.npz")
        y = loaded.ll_var[0].numpy()
        assert [str(v.dtype) for v in (*loaded.ll_var, *loaded.ul_var)] == [lower, upper]
        assert 0.5 * ((y.astype(np.float64) - 1.0) ** 2).sum() == pytest.approx(loss, rel=1e-5)
    resumed = build(*pair())
    resumed.fit({}, {}, max_steps=3, resume_from="last")
    assert resumed.state.step == 3
