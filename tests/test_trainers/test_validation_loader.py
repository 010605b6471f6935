"""The batches of ``val_loader`` are those of the run that was never stopped."""

from jboat.callbacks import EarlyStopping, LambdaCallback, ModelCheckpoint
import jittor as jt
import numpy as np
import pytest
from small_trainers import make


class Numbers(jt.dataset.Dataset):
    """Batches of two of the numbers 0 to 7."""

    def __init__(self, shuffle=True):
        super().__init__()
        self.set_attrs(batch_size=2, total_len=8, shuffle=shuffle, drop_last=False)

    def __getitem__(self, i):
        return np.array([i], "float32"), np.array([i], "float32")


def shuffled():
    for i in np.random.permutation(8):
        yield {"data": np.array([i], "float32")}


class ShuffledList(list):
    def __iter__(self):
        return iter([self[i] for i in np.random.permutation(len(self))])


LOADERS = {
    "dataset": Numbers,
    "function": lambda: shuffled,
    "list": lambda: ShuffledList({"data": np.array([i], "float32")} for i in range(8)),
}


class CrashError(Exception):
    pass


def build(folder, seen, *callbacks, **arguments):
    def watch(batch, ul_model, ll_model):
        seen.append(batch["data"].numpy().tolist())
        return 0.0

    saver = ModelCheckpoint(folder, every_n_steps=1, save_top_k=-1)
    return make(*callbacks, saver, metrics={"watch": watch}, **{"seed": 3, **arguments})


def crash(hook, step):
    def fail(trainer, state):
        if state.step == step:
            raise CrashError

    return LambdaCallback(**{hook: fail})


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    ("hook", "step", "evaluated", "saved"),
    [
        ("on_step_start", 5, 2, 2),
        ("on_step_start", 4, 2, 1),
        ("on_evaluate_start", 4, 1, 1),
        ("on_evaluate_end", 4, 2, 1),
    ],
)
def test_a_shuffled_one_goes_on_where_it_was(loader, hook, step, evaluated, saved, tmp_path):
    limits = {"max_steps": 8, "val_every": 2}
    seen, before, after = [], [], []
    whole = build(tmp_path / "whole", seen)
    whole.fit({}, {}, val_loader=LOADERS[loader](), **limits)
    stopped = build(tmp_path / "m", before, crash(hook, step))
    with pytest.raises(CrashError):
        stopped.fit({}, {}, val_loader=LOADERS[loader](), **limits)
    np.random.seed(99)
    resumed = build(tmp_path / "m", after)
    history = resumed.fit({}, {}, val_loader=LOADERS[loader](), **limits, resume_from="last")
    size = len(seen) // 4
    orders = [seen[i : i + size] for i in range(0, len(seen), size)]
    assert len({str(order) for order in orders}) == 4  # it does shuffle
    assert before == seen[: evaluated * size]
    assert after == seen[saved * size :]
    assert history["val_watch"] == [0.0] * 4


def test_an_evaluation_draws_nothing_from_the_users_generators(tmp_path):
    np.random.seed(5)
    expected = np.random.RandomState(5).rand(3).tolist()
    drawn = []
    draw = LambdaCallback(on_step_end=lambda t, s: drawn.append(np.random.rand()))
    build(tmp_path, [], draw, seed=None).fit({}, {}, max_steps=3, val_loader=shuffled, val_every=1)
    assert drawn == expected


def test_another_val_loader_is_told_and_used(tmp_path, caplog):
    build(tmp_path, []).fit({}, {}, max_steps=2, val_loader=Numbers(), val_every=1)
    seen = []
    resumed = build(tmp_path, seen)
    plain = [{"data": np.array([1.0], "float32")}]
    resumed.fit({}, {}, max_steps=3, val_loader=plain, val_every=1, resume_from="last")
    assert seen == [[1.0]] * len(seen)
    assert seen
    assert "val_loader was a Dataset with a generator of its own when it was saved" in caplog.text
    without = build(tmp_path, [])
    without.fit({}, {}, max_steps=4, resume_from="last")
    assert without.state.step == 4


def test_a_loaded_checkpoint_keeps_what_callbacks_remember(tmp_path):
    def make():
        stopping = EarlyStopping("ul_loss", patience=5)  # which has improved in the first step alone
        return build(tmp_path, [], stopping), stopping

    first, _ = make()
    first.fit({}, {}, max_steps=3)
    second, stopping = make()
    second.load_checkpoint(tmp_path / "last.npz")
    assert stopping.wait == 2
    second.fit({}, {}, max_steps=20)
    assert second.state.step == 6
