"""A metric that cannot come is an error as early as it can be known; one that has not come yet is none."""

from jboat import BilevelTrainer
from jboat.callbacks import (
    Callback,
    EarlyStopping,
    HypergradientCheck,
    LambdaCallback,
    LRSchedule,
    ModelCheckpoint,
)
import jittor as jt
import numpy as np
from problems import Quadratic
import pytest
from small_trainers import make


def plateau(trainer_or_optimizer, **kwargs):
    return jt.lr_scheduler.ReduceLROnPlateau(trainer_or_optimizer, patience=0, **kwargs)


FOLLOWERS = {
    "EarlyStopping": lambda name, folder: EarlyStopping(name),
    "ModelCheckpoint": lambda name, folder: ModelCheckpoint(folder, monitor=name, every_n_steps=1),
    "LRSchedule": None,
}


def build(follower, name, folder, *others, **kwargs):
    if follower != "LRSchedule":
        return make(FOLLOWERS[follower](name, folder), *others, **kwargs)
    ul_model, _ = Quadratic().models()
    optimizer = jt.optim.SGD(list(ul_model.parameters()), 0.1)
    return make(
        LRSchedule(plateau(optimizer), monitor=name), *others, ul_model=ul_model, ul_optimizer=optimizer, **kwargs
    )


METRICS = {"metrics": {"acc": lambda batch, ul_model, ll_model: 1.0}}


@pytest.mark.parametrize("follower", FOLLOWERS)
def test_a_name_of_an_evaluation_without_val_loader(follower, tmp_path):
    trainer = build(follower, "val_acc", tmp_path, **METRICS)
    with pytest.raises(ValueError, match=r"no metric 'val_acc' without evaluations; give fit\(\) a val_loader"):
        trainer.fit({}, {}, max_steps=5)
    assert trainer.state.step == 0


@pytest.mark.parametrize("follower", FOLLOWERS)
def test_a_misspelt_name_of_an_evaluation_is_found_before_training(follower, tmp_path):
    trainer = build(follower, "val_ac", tmp_path, **METRICS)
    message = r"no metric 'val_ac'; evaluations give val_ul_loss, val_acc\. Did you mean 'val_acc'\?$"
    with pytest.raises(ValueError, match=message):  # and no advice to give a val_loader, which there is
        trainer.fit({}, {}, max_steps=5, val_loader={}, val_every=5)
    assert trainer.state.step == 0


@pytest.mark.parametrize("follower", FOLLOWERS)
@pytest.mark.parametrize(("name", "meant"), [("ul_los", "ul_loss"), ("acc", "val_acc")])
def test_a_name_of_no_step_is_found_after_the_first(follower, name, meant, tmp_path):
    trainer = build(follower, name, tmp_path, **METRICS)
    with pytest.raises(ValueError, match=f"no metric '{name}' at step 1; there are ll_loss.*mean '{meant}'"):
        trainer.fit([{}, {}], {}, max_epochs=5, val_loader={})
    assert trainer.state.step == 1
    assert trainer.history["step"] == [1]


@pytest.mark.parametrize("follower", FOLLOWERS)
def test_not_evaluated_yet_is_not_never(follower, tmp_path):
    trainer = build(follower, "val_ul_loss", tmp_path)
    trainer.fit({}, {}, max_steps=6, val_loader={}, val_every=3)
    assert trainer.state.step == 6


@pytest.mark.parametrize("follower", FOLLOWERS)
def test_a_metric_that_comes_at_some_steps_only(follower, tmp_path):
    trainer = build(follower, "hypergradient_error", tmp_path, HypergradientCheck(every_n_steps=3, directions=1))
    trainer.fit({}, {}, max_steps=6)
    assert trainer.state.step == 6


def test_an_overridden_evaluation_step_is_asked_first():
    class Mine(BilevelTrainer):
        def evaluation_step(self, batch):
            return {"f1": 0.5}

    stopping = EarlyStopping("val_f1")
    make(stopping, trainer_class=Mine).fit({}, {}, max_steps=3, val_loader={}, val_every=2)
    assert stopping.best == 0.5
    trainer = make(EarlyStopping("val_f2"), trainer_class=Mine)
    with pytest.raises(ValueError, match=r"no metric 'val_f2' at step 2; .*mean 'val_f1'"):
        trainer.fit({}, {}, max_steps=3, val_loader={}, val_every=2)


class Late(Callback):
    """Of the user's own: who knows what it adds."""

    def on_step_end(self, trainer, state):
        if state.step == 2:
            state.metrics["late"] = state.metrics["val_late"] = 1.0


@pytest.mark.parametrize("name", ["late", "val_late"])
def test_what_a_users_callback_may_add_is_waited_for(name, caplog):
    stopping = EarlyStopping(name)
    make(stopping, Late()).fit({}, {}, max_steps=3)  # though it stands after the one that reads
    assert (stopping.best, stopping.best_step) == (1.0, 2)
    assert "never came" not in caplog.text
    make(EarlyStopping("never"), LambdaCallback(on_step_end=lambda trainer, state: None)).fit({}, {}, max_steps=2)
    assert "the metric 'never', which is monitored, never came in this fit; there are ll_loss" in caplog.text


def rates(per, monitor="val_score", scores=(5.0, 5.0, 5.0), **limits):
    """ul_lr of every step under a plateau schedule that halves at each value that is no better."""
    numbers = iter(scores)
    ul_model, _ = Quadratic().models()
    optimizer = jt.optim.SGD(list(ul_model.parameters()), 0.1)
    trainer = make(
        LRSchedule(plateau(optimizer, factor=0.5), per=per, monitor=monitor),
        ul_model=ul_model,
        ul_optimizer=optimizer,
        metrics={"score": lambda batch, ul_model, ll_model: next(numbers)},
    )
    return trainer.fit([{}, {}], {}, val_loader={}, **limits)["ul_lr"]


def test_a_plateau_counts_every_value_once():
    assert rates("step", max_steps=8, val_every=3) == pytest.approx([0.1] * 6 + [0.05] * 2)
    # epochs of two steps: the first has no value; those of steps 3 and 6 belong to the second and the third
    assert rates("epoch", max_steps=8, val_every=3) == pytest.approx([0.1] * 6 + [0.05] * 2)
    assert rates("epoch", max_steps=6) == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.05, 0.05])


def test_monitor_goes_with_a_scheduler_that_takes_a_metric():
    optimizer = jt.optim.SGD([jt.array(np.ones(2, "float32"))], 0.1)
    with pytest.raises(ValueError, match=r"ReduceLROnPlateau\.step\(\) needs 'loss': name the metric .* monitor="):
        LRSchedule(plateau(optimizer))
    with pytest.raises(ValueError, match=r"monitor is 'ul_loss', but a function takes no metric"):
        LRSchedule(lambda step: 0.1, monitor="ul_loss")
    with pytest.raises(ValueError, match=r"monitor is 'ul_loss', but ExponentialLR takes no metric"):
        LRSchedule(jt.lr_scheduler.ExponentialLR(optimizer, 0.9), monitor="ul_loss")
