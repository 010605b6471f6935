"""The end of a pass is the same whether a loader tells its length or not."""

from jboat import StopReason
from jboat.callbacks import EarlyStopping, LambdaCallback, ModelCheckpoint
import numpy as np
import pytest
from small_trainers import make


class Unsized:
    """An iterable without a length."""

    def __iter__(self):
        return iter([{}, {}])


LOADERS = {"list": [{}, {}], "function": lambda: iter([{}, {}]), "iterable": Unsized()}


def ends(loader, *callbacks, **limits):
    """At which steps epochs ended, and the trainer."""
    steps = []
    note = LambdaCallback(on_epoch_end=lambda trainer, state: steps.append(state.step))
    trainer = make(note, *callbacks)
    trainer.fit(loader, {}, **limits)
    return steps, trainer


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize(("max_steps", "expected"), [(1, []), (2, [2]), (3, [2]), (4, [2, 4])])
def test_a_pass_that_ends_with_max_steps_has_its_end(kind, max_steps, expected, tmp_path):
    steps, trainer = ends(LOADERS[kind], ModelCheckpoint(tmp_path), max_steps=max_steps, val_loader={})
    assert steps == expected
    assert trainer.state.epoch == len(expected)
    assert trainer.state.step == max_steps
    assert (tmp_path / "last.npz").exists() == bool(expected)
    assert ("val_ul_loss" in trainer.state.metrics) == bool(expected)
    assert trainer.state.stop_reason is StopReason.MAX_STEPS


@pytest.mark.parametrize("kind", LOADERS)
def test_so_does_one_that_ends_with_another_stop(kind):
    steps, _ = ends(LOADERS[kind], EarlyStopping("ul_loss", threshold=1e9))
    assert steps == []
    steps, _ = ends(LOADERS[kind], max_time=1e-9)
    assert steps == []
    stop = LambdaCallback("stop", on_step_end=lambda trainer, state: state.request_stop() if state.step == 2 else None)
    assert ends(LOADERS[kind], stop, max_epochs=9)[0] == [2]


def test_a_generator_that_is_read_on_later_loses_no_batch():
    seen = []

    def batches():
        for i in range(6):
            seen.append(i)
            yield {}

    stream = batches()
    trainer = make()
    trainer.fit(stream, {}, max_steps=2)
    trainer.fit(stream, {}, max_steps=2)
    assert seen == [0, 1, 2, 3]


def test_looking_for_the_end_leaves_the_position(tmp_path):
    def shuffled():
        for scale in np.random.permutation(4):
            yield {"scale": float(scale)}

    def run(folder, max_steps):
        seen = []
        saver = ModelCheckpoint(tmp_path / folder, every_n_steps=1)
        note = LambdaCallback(
            on_step_start=lambda trainer, state: seen.append(trainer.current_run.pairs[0][0]["scale"])
        )
        trainer = make(note, saver, seed=3)
        trainer.fit(shuffled, {}, max_steps=max_steps, resume_from="last")
        trainer.save_checkpoint(tmp_path / folder / "after.npz")
        return seen, trainer

    whole, _ = run("whole", 8)
    first, trainer = run("parts", 3)
    position = trainer.current_run.resumption.positions()["ll"]["position"]
    second, _ = run("parts", 8)
    assert first + second == whole
    assert position == 3
