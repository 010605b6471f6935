"""``evaluate`` gives means weighted by batch size and leaves training as it was."""

from jboat import BilevelTrainer
from jboat.trainers.data.loader_stream import LoaderStream
import jittor as jt
from jittor import nn
import numpy as np
from problems import Point
import pytest
import small_trainers

DATA = np.arange(12, dtype="float32").reshape(6, 2)
TARGET = np.array([0, 1, 0, 1, 1, 0], dtype="int32")


def loss(batch, ul_model, ll_model):
    return nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"]) + 0.0 * ul_model().sum()


def share_of_ones(batch, ul_model, ll_model):
    return float((batch["target"].numpy() == 1).mean())


def make(ll_model=None, *, ll_params=None, **kwargs):
    return small_trainers.make(
        ll_model=ll_model or nn.Linear(2, 2),
        ul_model=Point([0.0, 1.0]),
        ll_objective=loss,
        ul_objective=loss,
        ll_optimizer=lambda params: jt.optim.SGD(ll_params or params, 0.01),
        ul_lr=0.01,
        **kwargs,
    )


def test_means_are_weighted_by_batch_size():
    trainer = make(metrics={"ones": share_of_ones})
    whole = trainer.evaluate({"data": DATA, "target": TARGET})
    parts = trainer.evaluate([(DATA[:4], TARGET[:4]), (DATA[4:], TARGET[4:])])
    assert whole["ones"] == pytest.approx(0.5)
    assert parts == pytest.approx(whole, rel=1e-5)
    assert set(whole) == {"ul_loss", "ones"}


class Normalised(jt.Module):
    """A linear layer between BatchNorm and dropout."""

    def __init__(self):
        self.norm, self.linear, self.dropout = nn.BatchNorm(2), nn.Linear(2, 2), nn.Dropout(0.5)

    def execute(self, x):
        return self.dropout(self.linear(self.norm(x)))


def test_dropout_is_off_and_statistics_modes_and_gradients_come_back():
    model = Normalised()
    params = [p for p in model.parameters() if not p.is_stop_grad()]
    trainer = make(model, ll_params=params)
    trainer.fit({"data": DATA, "target": TARGET}, {"data": DATA, "target": TARGET}, max_steps=2)
    model.dropout.is_train = False
    mean = model.norm.running_mean.numpy().copy()
    assert np.abs(mean).max() > 0
    pending = loss({"data": jt.array(DATA), "target": jt.array(TARGET)}, trainer.ul_model, model)
    first, second = (trainer.evaluate({"data": DATA, "target": TARGET}) for _ in range(2))
    assert first == second
    assert (model.norm.is_training(), model.dropout.is_training()) == (True, False)
    np.testing.assert_allclose(model.norm.running_mean.numpy(), 0.9 * mean + 0.1 * DATA.mean(0), rtol=1e-5)
    assert not any(p.is_stop_grad() for p in params)
    assert np.abs(jt.grad(pending, [params[2]])[0].numpy()).max() > 0


def test_hypergradient_keeps_running_statistics():
    model = Normalised()
    trainer = make(model, ll_params=[p for p in model.parameters() if not p.is_stop_grad()])
    feeds = {"data": DATA, "target": TARGET}
    before = model.norm.running_mean.numpy().copy()
    trainer.hypergradient(feeds, feeds)
    np.testing.assert_array_equal(model.norm.running_mean.numpy(), before)


def test_running_statistics_advance_once_a_lower_step():
    model = Normalised()
    trainer = make(model, ll_params=[p for p in model.parameters() if not p.is_stop_grad()], na_op=["PTT", "CG"])
    trainer.fit({"data": DATA, "target": TARGET}, {"data": DATA, "target": TARGET}, max_steps=1)
    expected = DATA.mean(0) * (1 - 0.9**2)
    np.testing.assert_allclose(model.norm.running_mean.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("loader", "error", "message"),
    [
        ([], ValueError, "loader is empty"),
        (3, TypeError, "loader must be a loader"),
        ([[{}]], ValueError, "lists of tasks"),
    ],
)
def test_bad_loaders(loader, error, message):
    with pytest.raises(error, match=message):
        make().evaluate(loader)


def test_evaluation_step_must_return_numbers_by_name():
    class Mine(BilevelTrainer):
        def evaluation_step(self, batch):
            return 3.0

    ll_model, ul_model = nn.Linear(2, 2), Point([0.0])
    trainer = Mine(
        ll_model,
        ul_model,
        loss,
        loss,
        ll_optimizer=jt.optim.SGD(ll_model.parameters(), 0.1),
        ul_optimizer=jt.optim.SGD(ul_model.parameters(), 0.1),
    )
    with pytest.raises(TypeError, match="evaluation_step must return a dict of numbers, got float"):
        trainer.evaluate({})


class Pairs(jt.dataset.Dataset):
    """Six samples in batches of four."""

    def __init__(self):
        super().__init__()
        self.set_attrs(batch_size=4, total_len=6)

    def __getitem__(self, i):
        return DATA[i], TARGET[i]


def drain(stream):
    batches = []
    while (batch := stream.draw()) is not None:
        batches.append(batch)
    return batches


@pytest.mark.parametrize(
    "loader",
    [
        Pairs(),
        [(DATA[:4], TARGET[:4]), (DATA[4:], TARGET[4:])],
        lambda: ((DATA[i : i + 4], TARGET[i : i + 4]) for i in (0, 4)),
        [{"data": jt.array(DATA[:4]), "target": TARGET[:4]}, {"data": jt.array(DATA[4:]), "target": TARGET[4:]}],
    ],
    ids=["dataset", "list", "factory", "dicts"],
)
def test_every_kind_of_loader_gives_the_same_batches_in_every_pass(loader):
    stream = LoaderStream(loader, "loader")
    for _ in range(2):
        batches = drain(stream)
        assert [b["data"].shape[0] for b in batches] == [4, 2]
        np.testing.assert_array_equal(np.concatenate([b["data"].numpy() for b in batches]), DATA)
        np.testing.assert_array_equal(np.concatenate([b["target"].numpy() for b in batches]), TARGET)


def test_a_dict_is_one_batch_converted_once_and_left_alone():
    mine = {"data": DATA, "flag": "text", "scale": 2.0}
    stream = LoaderStream(mine, "loader")
    (first,), (second,) = drain(stream), drain(stream)
    assert first["data"] is second["data"]
    assert (first["flag"], first["scale"]) == ("text", 2.0)
    assert mine["data"] is DATA
