"""A run that is stopped and resumed ends bit-identical to one that is not."""

import itertools
import random

from jboat import BilevelTrainer, StopReason
from jboat.callbacks import EarlyStopping, LambdaCallback, LRSchedule, ModelCheckpoint
import jittor as jt
from jittor import nn
import numpy as np
from problems import Classifier, Point
import pytest
from small_trainers import make

PROBLEM = Classifier(hidden=5)
DATA, TARGET = PROBLEM.train["data"], PROBLEM.train["target"].astype("int32")


class Network(jt.Module):
    """A two-layer network, with dropout between the layers if wanted."""

    def __init__(self, dropout=0.0):
        self.first, self.second = nn.Linear(PROBLEM.FEATURES, 5), nn.Linear(5, PROBLEM.CLASSES)
        self.drop = nn.Dropout(dropout)
        for p, value in zip(self.parameters(), PROBLEM.start, strict=True):
            p.assign(jt.array(value.astype("float32")))

    def execute(self, x):
        return self.second(self.drop(self.first(x).tanh()))


def f(batch, ul_model, ll_model):
    loss = nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"])
    parameters = ul_model() if isinstance(ul_model, Point) else jt.zeros(2)
    return loss + (parameters.exp() * sum((p * p).sum() for p in ll_model.parameters())).sum()


def F(batch, ul_model, ll_model):
    SEEN.append(float(batch["data"].numpy().sum()))
    return nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"])


SEEN = []


class Shuffled(jt.dataset.Dataset):
    def __init__(self, batch_size):
        super().__init__()
        self.set_attrs(batch_size=batch_size, total_len=len(DATA), shuffle=True)

    def __getitem__(self, i):
        return DATA[i], TARGET[i]


def batches(size):
    return [(DATA[i : i + size], TARGET[i : i + size]) for i in range(0, len(DATA), size)]


def from_numpys_generator():
    order = np.random.permutation(len(DATA))
    for i in range(0, len(DATA), 6):
        yield DATA[order[i : i + 6]], TARGET[order[i : i + 6]]


def from_pythons_generator():
    order = list(range(len(DATA)))
    random.shuffle(order)
    for i in range(0, len(DATA), 8):
        yield DATA[order[i : i + 8]], TARGET[order[i : i + 8]]


class ShuffledList(list):
    """A list that is read in another order in every pass."""

    def __iter__(self):
        return iter([self[i] for i in np.random.permutation(len(self))])


def sgd(params):
    return jt.optim.SGD(params, 0.1)


def momentum(params):
    return jt.optim.SGD(params, 0.1, momentum=0.9)


def adam(params):
    return jt.optim.Adam(params, 0.05)


def cosine(trainer_parts):
    return [LRSchedule(jt.lr_scheduler.CosineAnnealingLR(trainer_parts["ul_optimizer"], T_max=7))]


LOADERS = {
    "list": (lambda: batches(6), lambda: batches(8)),
    "shuffled list": (lambda: ShuffledList(batches(6)), lambda: ShuffledList(batches(8))),
    "dataset": (lambda: Shuffled(6), lambda: Shuffled(8)),
    "factory": (lambda: from_numpys_generator, lambda: from_pythons_generator),
}
RUNS = {
    "NGD+RAD": {},
    "GDA+DI+PTT+RAD": {"gm_op": ["GDA", "DI", "NGD"], "na_op": ["PTT", "RAD"], "upper": adam, "loaders": "dataset"},
    "IAD": {"na_op": ["IAD"], "iad": True, "upper": adam},
    "CG warm": {"na_op": ["CG"], "loaders": "factory", "lower": momentum, "ll_optimizer_state": "carry"},
    "shuffled list": {"na_op": ["CG"], "loaders": "shuffled list", "lower": momentum, "ll_optimizer_state": "carry"},
    "cold NS": {"na_op": ["NS"], "warm_start": False},
    "accumulate": {"accumulate": 2, "loaders": "dataset", "upper": momentum},
    "fresh": {"lower_batches": "fresh", "loaders": "factory"},
    "cosine": {"callbacks": cosine, "upper": momentum},
    "dropout": {"dropout": 0.5, "loaders": "factory"},
    "lower adam": {"lower": adam, "ll_optimizer_state": "carry"},
}


def build(folder, *, lower=sgd, upper=sgd, loaders="list", iad=False, dropout=0.0, callbacks=None, extra=(), **kwargs):
    ll_model = Network(dropout)
    ul_model = Network(dropout) if iad else Point([-4.0, -5.0])
    parts = {"ll_optimizer": lower(ll_model.parameters()), "ul_optimizer": upper(ul_model.parameters())}
    checkpoint = ModelCheckpoint(folder, every_n_steps=1, save_top_k=2)
    more = callbacks(parts) if callbacks else []
    trainer = BilevelTrainer(
        ll_model,
        ul_model,
        f,
        F,
        lower_iters=3,
        seed=7,
        callbacks=[*more, *extra, checkpoint],
        **parts,
        **kwargs,
    )
    return trainer, tuple(new() for new in LOADERS[loaders])


class CrashError(Exception):
    pass


def crash_before(step):
    def hook(trainer, state):
        if state.step == step:
            raise CrashError

    return LambdaCallback("crash", on_step_start=hook)


def fingerprint(trainer):
    rows = [{k: v for k, v in row.items() if not k.startswith("time_")} for row in trainer.history]
    optimizers = [
        [v.numpy() for group in o.param_groups for vs in group.values() if isinstance(vs, list) for v in vs]
        for o in (trainer.ll_optimizer, trainer.ul_optimizer)
    ]
    counts = (trainer.ll_optimizer.n_step, trainer.ul_optimizer.n_step, trainer.ul_optimizer.lr)
    return trainer.values(), rows, optimizers, counts, trainer.state.step, trainer.state.epoch


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_equal(one, other)


def scramble():
    random.seed(99)
    np.random.seed(99)
    jt.set_seed(99)


@pytest.mark.parametrize("name", RUNS)
def test_resumed_in_the_middle_of_an_epoch(name, tmp_path):
    checked = "GDA" not in name  # with GDA the check, too, calls the F that is recorded
    limits = {"max_epochs": 3, "check_second_order": checked}
    whole, loaders = build(tmp_path / "whole", **RUNS[name])
    SEEN.clear()
    whole.fit(*loaders, **limits)
    seen_whole = list(SEEN)
    steps = whole.state.step
    crash_at = {12: 6, 6: 3}.get(steps, steps // 2)
    for_crash = {**RUNS[name], "extra": [crash_before(crash_at)]}
    stopped, loaders = build(tmp_path / "stopped", **for_crash)
    with pytest.raises(CrashError):
        stopped.fit(*loaders, **limits)
    scramble()
    resumed, loaders = build(tmp_path / "stopped", **RUNS[name])
    for v in (*resumed.ll_var, *resumed.ul_var):
        v.update(v + 1.0)
    SEEN.clear()
    resumed.fit(*loaders, **limits, resume_from="last")
    assert resumed.state.step == steps
    assert_same(fingerprint(whole), fingerprint(resumed))
    assert SEEN[1:] == seen_whole[-len(SEEN) + 1 :]  # the first call checks the objective


@pytest.mark.parametrize("crash_at", [1, 4, 8, 11])
def test_resumed_anywhere_with_evaluation_and_early_stopping(crash_at, tmp_path):
    stopping = [EarlyStopping("val_ul_loss", patience=4, min_delta=10.0, restore_best=True)]
    limits = {"max_epochs": 5, "val_loader": batches(12)}
    run = {"loaders": "dataset", "upper": adam}
    whole, loaders = build(tmp_path / "whole", extra=stopping, **run)
    whole.fit(*loaders, **limits)
    assert whole.state.stop_reason is StopReason.EARLY_STOPPING
    assert whole.state.epoch == 5
    fresh = EarlyStopping("val_ul_loss", patience=4, min_delta=10.0, restore_best=True)
    stopped, loaders = build(tmp_path / "stopped", extra=[fresh, crash_before(crash_at)], **run)
    with pytest.raises(CrashError):
        stopped.fit(*loaders, **limits)
    scramble()
    again = EarlyStopping("val_ul_loss", patience=4, min_delta=10.0, restore_best=True)
    resumed, loaders = build(tmp_path / "stopped", extra=[again], **run)
    resumed.fit(*loaders, **limits, resume_from="last")
    assert_same(fingerprint(whole), fingerprint(resumed))
    assert (again.wait, again.best) == (stopping[0].wait, stopping[0].best)


def test_evaluations_that_were_due_are_made_up(tmp_path):
    limits = {"max_steps": 8, "val_loader": batches(12), "val_every": 2}
    whole, loaders = build(tmp_path / "whole")
    whole.fit(*loaders, **limits)
    for crash_at in (2, 3, 4):
        folder = tmp_path / str(crash_at)
        stopped, loaders = build(folder, extra=[crash_before(crash_at)])
        with pytest.raises(CrashError):
            stopped.fit(*loaders, **limits)
        resumed, loaders = build(folder)
        resumed.fit(*loaders, **limits, resume_from="last")
        assert_same(fingerprint(whole), fingerprint(resumed))


def test_resumed_after_the_last_step_of_an_epoch_and_of_the_run(tmp_path):
    whole, loaders = build(tmp_path / "whole", loaders="dataset")
    whole.fit(*loaders, max_epochs=4)
    first, loaders = build(tmp_path / "parts", loaders="dataset")
    first.fit(*loaders, max_epochs=2)
    second, loaders = build(tmp_path / "parts", loaders="dataset")
    second.fit(*loaders, max_steps=12, resume_from="last")
    assert second.state.step == 12
    third, loaders = build(tmp_path / "parts", loaders="dataset")
    third.fit(*loaders, max_epochs=4, resume_from="last")
    assert_same(fingerprint(whole), fingerprint(third))
    done, loaders = build(tmp_path / "parts", loaders="dataset")
    done.fit(*loaders, max_epochs=4, resume_from="last")
    assert_same(fingerprint(whole), fingerprint(done))


def test_load_checkpoint_then_fit_goes_on(tmp_path):
    trainer, loaders = build(tmp_path / "a")
    trainer.fit(*loaders, max_steps=3)
    trainer.save_checkpoint(tmp_path / "mine.npz")
    other, loaders = build(tmp_path / "b")
    other.load_checkpoint(tmp_path / "mine.npz")
    assert_same(fingerprint(trainer), fingerprint(other))
    other.fit(*loaders, max_steps=5)
    whole, loaders = build(tmp_path / "c")
    whole.fit(*loaders, max_steps=5)
    assert_same(fingerprint(whole)[:1], fingerprint(other)[:1])


def test_a_loader_that_cannot_be_repeated_is_named(tmp_path):
    draws = itertools.count()

    def drifting():
        for _ in range(4):
            start = next(draws) % 12
            yield DATA[start : start + 6], TARGET[start : start + 6]

    trainer, _ = build(tmp_path)
    trainer.fit(drifting, batches(8), max_steps=3)
    resumed, _ = build(tmp_path)
    with pytest.raises(ValueError, match=r"ll_loader gives other batches than in the run that was saved"):
        resumed.fit(drifting, batches(8), max_steps=5, resume_from="last")


def test_last_without_a_checkpoint_starts_afresh_and_says_so(tmp_path, caplog):
    trainer, loaders = build(tmp_path)
    trainer.fit(*loaders, max_steps=2, resume_from="last")
    assert trainer.state.step == 2
    assert "no checkpoint" in caplog.text


def test_best_is_the_best_by_the_monitored_metric(tmp_path):
    def build_monitored():
        trainer, loaders = build(tmp_path / "unused", upper=adam)
        checkpoint = ModelCheckpoint(tmp_path / "best", monitor="ul_loss", every_n_steps=1, save_top_k=2)
        ll_model, ul_model = trainer.ll_model, trainer.ul_model
        own = {"ll_optimizer": trainer.ll_optimizer, "ul_optimizer": trainer.ul_optimizer, "seed": 7}
        return BilevelTrainer(ll_model, ul_model, f, F, lower_iters=3, callbacks=[checkpoint], **own), loaders

    trainer, loaders = build_monitored()
    history = trainer.fit(*loaders, max_steps=7)
    best_step = 1 + int(np.argmin(history["ul_loss"]))
    resumed, loaders = build_monitored()
    resumed.fit(*loaders, max_steps=best_step, resume_from="best")
    assert resumed.state.step == best_step
    assert resumed.history["ul_loss"] == history["ul_loss"][:best_step]
    kept = sorted(p.name for p in (tmp_path / "best").glob("step-*"))
    order = np.argsort(history["ul_loss"])[:2] + 1
    assert kept == sorted(f"step-{step:08d}.npz" for step in order)


def test_last_or_best_need_a_model_checkpoint():
    trainer = make()
    with pytest.raises(ValueError, match="resume_from='last' needs a ModelCheckpoint among the callbacks"):
        trainer.fit({}, {}, resume_from="last")
