"""Weights for others, models out of checkpoints under other settings, and what ``jboat inspect`` tells."""

import logging
import os
import subprocess
import sys
import zipfile

from hostile_files import HOSTILE, Bomb, forged, npy
from jboat import BilevelTrainer, load_weights
from jboat.__main__ import main
from jboat.callbacks import CSVLogger, ModelCheckpoint
from jboat.trainers.persistence import archive
from jboat.trainers.persistence.checkpoint import CheckpointError
from jboat.trainers.persistence.weights import WeightsError
import jittor as jt
from jittor import nn
import numpy as np
from problems import Classifier, Point, Quadratic
import pytest
from small_trainers import make


def test_numpy_alone_reads_one_model_and_both(tmp_path):
    trainer = make()
    trainer.fit({}, {}, max_steps=1)
    trainer.save_weights(tmp_path / "ll.npz", "ll")
    trainer.save_weights(tmp_path / "both.npz")
    code = (
        "import numpy as np, sys; a = np.load(sys.argv[1], allow_pickle=False);"
        "print({n: (a[n].shape, float(a[n].sum())) for n in a}); print('jittor' in sys.modules)"
    )
    for name, expected in (
        ("ll.npz", {"value": trainer.ll_var[0]}),
        ("both.npz", {"ll_model.value": trainer.ll_var[0], "ul_model.value": trainer.ul_var[0]}),
    ):
        done = subprocess.run([sys.executable, "-c", code, tmp_path / name], capture_output=True, text=True, check=True)
        shown = {n: (tuple(v.shape), float(v.numpy().sum())) for n, v in expected.items()}
        assert done.stdout.splitlines() == [str(shown), "False"]
        with zipfile.ZipFile(tmp_path / name) as file:
            assert {e.compress_type for e in file.infolist()} == {zipfile.ZIP_STORED}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["both.npz", "ll.npz"]


def test_weights_come_back_with_buffers_and_flags():
    source = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3))
    problem = Classifier()
    ul_model = Point(problem.weights)
    trainer = BilevelTrainer(
        source,
        ul_model,
        problem.f,
        problem.F,
        ll_optimizer=jt.optim.SGD(source.parameters(), 0.1),
        ul_optimizer=jt.optim.SGD(ul_model.parameters(), 0.1),
    )
    source[1].running_mean.update(jt.array(np.array([1.0, 2.0, 3.0], "float32")))
    target = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3))
    flags = {name: v.is_stop_grad() for name, v in target.named_parameters()}
    assert set(flags.values()) == {True, False}
    path = os.path.join(os.environ["HOME"], "weights-of-a-test.npz")
    try:
        trainer.save_weights(path)
        load_weights(path, target)
    finally:
        os.unlink(path)
    for (name, a), (_, b) in zip(source.named_parameters(), target.named_parameters(), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=name)
    assert {name: v.is_stop_grad() for name, v in target.named_parameters()} == flags


def test_of_two_models_the_one_that_fits_is_taken(tmp_path):
    trainer = make()
    trainer.save_weights(tmp_path / "both.npz")
    for level, var in (("ll", trainer.ll_var[0]), ("ul", trainer.ul_var[0])):
        point = Point(np.zeros(var.shape))
        load_weights(tmp_path / "both.npz", point)
        np.testing.assert_array_equal(point.value.numpy(), var.numpy())
        trainer.save_weights(tmp_path / "one.npz", level)
        again = Point(np.zeros(var.shape))
        load_weights(tmp_path / "one.npz", again, level)
        np.testing.assert_array_equal(again.value.numpy(), var.numpy())


def test_two_models_that_fit_ask_for_the_level(tmp_path):
    trainer = make(problem=Quadratic(same_dims=True))
    trainer.fit({}, {}, max_steps=1)
    trainer.save_weights(tmp_path / "both.npz")
    point = Point(np.zeros(8))
    with pytest.raises(ValueError, match=r"both\.npz holds two models that fit .* level='ll' or level='ul'"):
        load_weights(tmp_path / "both.npz", point)
    load_weights(tmp_path / "both.npz", point, "ul")
    np.testing.assert_array_equal(point.value.numpy(), trainer.ul_var[0].numpy())
    with pytest.raises(ValueError, match=r"level must be one of 'll', 'ul', got 'ull'.*Did you mean 'ul'"):
        load_weights(tmp_path / "both.npz", point, "ull")
    with pytest.raises(ValueError, match="level must be one of"):
        trainer.save_weights(tmp_path / "x.npz", "lower")


def test_a_file_of_numpy_in_float64_is_taken(tmp_path):
    values = np.linspace(-1, 1, 18).reshape(3, 6)
    np.savez(tmp_path / "w.npz", weight=np.asfortranarray(values), bias=np.arange(3.0).astype(">f8"))
    linear = nn.Linear(6, 3)
    load_weights(tmp_path / "w.npz", linear)
    np.testing.assert_array_equal(linear.weight.numpy(), values.astype("float32"))
    np.testing.assert_array_equal(linear.bias.numpy(), np.arange(3, dtype="float32"))


BIAS = np.zeros(3, "float32")
WEIGHT = np.zeros((3, 6), "float32")
WRONG = {
    "a missing name": (
        {"weihgt": WEIGHT, "bias": BIAS},
        r"it has no 'weight' Did you mean 'weihgt'\?; it has 'weihgt'",
    ),
    "another shape": ({"weight": WEIGHT.T, "bias": BIAS}, r"'weight' has shape \[6, 3\], .* \[3, 6\]"),
    "a name too many": ({"weight": WEIGHT, "bias": BIAS, "scale": BIAS}, "it has 'scale', which the module has not"),
    "integers": (
        {"weight": WEIGHT.astype(int), "bias": BIAS},
        "'weight' has dtype int64, and the module's has float32",
    ),
    "too large": ({"weight": WEIGHT + 1e300, "bias": BIAS}, "too large for the module's float32"),
    "of a level": ({"ll_model.weight": WEIGHT, "ul_model.value": BIAS}, "it has no 'bias'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_named_and_nothing_changes(name, tmp_path):
    arrays, said = WRONG[name]
    np.savez(tmp_path / "w.npz", **arrays)
    linear = nn.Linear(6, 3)
    before = {n: v.numpy().copy() for n, v in linear.named_parameters()}
    with pytest.raises(WeightsError, match=said):
        load_weights(tmp_path / "w.npz", linear)
    np.testing.assert_equal({n: v.numpy() for n, v in linear.named_parameters()}, before)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_weights_are_refused(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.npz"
    path.write_bytes(forged(HOSTILE[name]))
    with pytest.raises(WeightsError, match=r"evil\.npz"):
        load_weights(path, nn.Linear(6, 3))
    status = main(["inspect", str(path)])
    assert status == 2 or name == "no document"
    assert not (tmp_path / "executed").exists()


def test_compressed_weights_and_no_weights_at_all(tmp_path):
    np.savez_compressed(tmp_path / "c.npz", weight=WEIGHT, bias=BIAS)
    with pytest.raises(WeightsError, match=r"c\.npz holds no weights: .*(compressed|claim more).*"):
        load_weights(tmp_path / "c.npz", nn.Linear(6, 3))
    for name, content in (("text.npz", b"hello"), ("cut.npz", b"PK\x03\x04" + b"\0" * 40)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=name):
            load_weights(tmp_path / name, nn.Linear(6, 3))
    with pytest.raises(WeightsError, match=r"gone\.npz cannot be read"):
        load_weights(tmp_path / "gone.npz", nn.Linear(6, 3))
    with pytest.raises(TypeError, match="module must be a jittor Module, got dict"):
        load_weights(tmp_path / "gone.npz", {})


def test_models_of_a_checkpoint_under_other_settings(tmp_path, caplog):
    saved = make(callbacks=[ModelCheckpoint(tmp_path, every_n_steps=1)])
    saved.fit({}, {}, max_steps=3)
    other = make(ll_lr=0.2, lower_iters=7, na_op=("CG",), warm_start=False)
    with pytest.raises(CheckpointError, match=r"lower_iters was 2 and is 7.*what='models'"):
        other.load_checkpoint(tmp_path / "last.npz")
    with caplog.at_level(logging.INFO, "jboat"):
        other.load_checkpoint(tmp_path / "last.npz", "models")
    np.testing.assert_equal(other.values(), saved.values())
    assert other.state.step == 0
    assert not other.history.rows
    told = [r.getMessage() for r in caplog.records]
    for name in ("ll_optimizer.lr was 0.1 and is 0.2", "lower_iters was 2 and is 7", "na_op was ['RAD'] and is ['CG']"):
        assert sum(name in t for t in told) == 1
    assert all("saved under other settings" in t for t in told)
    start = saved.ll_var[0].numpy().copy()
    other.fit({}, {}, max_steps=1)
    np.testing.assert_array_equal(other.initialization[0].numpy(), start)
    with pytest.raises(ValueError, match="what must be one of 'all', 'models', got 'model'"):
        other.load_checkpoint(tmp_path / "last.npz", "model")


def test_models_of_a_trainer_that_has_run_give_its_next_start(tmp_path):
    trainer = make(warm_start=False)
    trainer.save_checkpoint(tmp_path / "first.npz")
    start = trainer.ll_var[0].numpy().copy()
    trainer.fit({}, {}, max_steps=2)
    moved = make(warm_start=False)
    moved.ll_var[0].update(jt.array(start + 1))
    moved.save_checkpoint(tmp_path / "moved.npz")
    trainer.load_checkpoint(tmp_path / "moved.npz", what="models")
    trainer.fit({}, {}, max_steps=1)
    np.testing.assert_array_equal(trainer.initialization[0].numpy(), (start + 1).astype("float32"))


def test_models_that_do_not_fit_change_nothing(tmp_path):
    make(problem=Quadratic(same_dims=True)).save_checkpoint(tmp_path / "other.npz")
    trainer = make()
    before = trainer.values()
    with pytest.raises(CheckpointError, match=r"'ul_model.value' has shape \[8\], and the module's has \[5\]"):
        trainer.load_checkpoint(tmp_path / "other.npz", what="models")
    tree = archive.read(tmp_path / "other.npz")
    tree["configuration"]["lower_iters"] = np.zeros(3)
    tree["variables"]["ul_model.value"] = np.zeros(5, "float32")
    archive.write(tmp_path / "evil.npz", tree)
    with pytest.raises(CheckpointError, match=r"evil\.npz does not fit"):
        trainer.load_checkpoint(tmp_path / "evil.npz", what="models")
    np.testing.assert_equal(trainer.values(), before)


def test_a_checkpoint_without_a_folder_goes_where_loggers_write(tmp_path):
    folder = tmp_path / "run"
    trainer = make(callbacks=[ModelCheckpoint(every_n_steps=1), CSVLogger()], logger_dir=folder)
    trainer.fit({}, {}, max_steps=2)
    assert sorted(p.name for p in folder.iterdir()) == ["last.npz", "metrics.csv", "step-00000002.npz"]
    again = make(callbacks=[ModelCheckpoint(every_n_steps=1), CSVLogger()], logger_dir=folder)
    again.fit({}, {}, max_steps=3, resume_from="last")
    assert again.state.step == 3
    with pytest.raises(
        ValueError, match="ModelCheckpoint does not know where to write: give it a folder, or the trainer"
    ):
        make(callbacks=[ModelCheckpoint()]).fit({}, {}, max_steps=1)
    with pytest.raises(ValueError, match="takes the trainer's logger_dir when fit begins"):
        ModelCheckpoint().best_file  # noqa: B018


def test_two_checkpoints_in_one_folder_one_of_which_is_not_named(tmp_path):
    callbacks = [ModelCheckpoint(every_n_steps=1), ModelCheckpoint(tmp_path, monitor="ul_loss", every_n_steps=1)]
    make(callbacks=[*callbacks, CSVLogger()], logger_dir=tmp_path).fit({}, {}, max_steps=3)
    assert {"best.npz", "last.npz"} <= {p.name for p in tmp_path.iterdir()}


def test_inspect_tells_of_a_checkpoint_and_of_weights(tmp_path, capsys):
    trainer = make(callbacks=[ModelCheckpoint(tmp_path, every_n_steps=1)])
    trainer.fit({}, {}, max_steps=3)
    trainer.save_weights(tmp_path / "w.npz")
    assert main(["inspect", str(tmp_path / "last.npz")]) == 0
    told = capsys.readouterr().out
    for line in (
        "step 3, epoch 2, history of 3 rows",  # written in the epoch of the third step
        f"  ul_loss  {trainer.state.metrics['ul_loss']:.6g}",
        "ll_model: 1 arrays, 8 numbers",
    ):
        assert line in told
    for line in ("  value  float32 [8]", "  lower_iters  2", "  ModelCheckpoint(None, 1, None, None)"):
        assert line in told
    assert main(["inspect", str(tmp_path / "w.npz")]) == 0
    told = capsys.readouterr().out
    assert told.startswith("weights, ")
    assert "ul_model: 1 arrays, 5 numbers\n  value  float32 [5]" in told


def test_inspect_of_a_strangers_files(tmp_path, capsys):
    make().save_checkpoint(tmp_path / "c.npz")
    tree = archive.read(tmp_path / "c.npz")
    tree["state"]["metrics"] = {"\x1b[2J\nclear": 1.0, **{f"m{i}": 0.0 for i in range(10000)}}
    archive.write(tmp_path / "loud.npz", tree)
    assert main(["inspect", str(tmp_path / "loud.npz")]) == 0
    told = capsys.readouterr().out
    assert "\x1b" not in told
    assert "  \\x1b[2J\\nclear  1" in told
    assert len(told.splitlines()) < 300
    (tmp_path / "bare.npz").write_bytes(forged([("weight.npy", npy(np.array([Bomb()], dtype=object)))]))
    (tmp_path / "video.npz").write_bytes(b"\0" * 1000)
    os.mkfifo(tmp_path / "pipe.npz")
    archive.write(tmp_path / "tree.npz", {"state": 3})
    for name in ("bare", "video", "pipe", "tree", "gone"):
        assert main(["inspect", str(tmp_path / f"{name}.npz")]) == 2
        out, error = capsys.readouterr()
        assert out == ""
        assert error.startswith("error: ")
        assert f"{name}.npz" in error
        assert len(error.splitlines()) == 1


def test_a_checkpoint_in_the_place_of_weights_and_the_other_way_round(tmp_path):
    trainer = make()
    trainer.save_checkpoint(tmp_path / "c.npz")
    trainer.save_weights(tmp_path / "w.npz")
    with pytest.raises(WeightsError, match=r"c\.npz is a checkpoint: .*load_checkpoint\(path, what='models'\)"):
        load_weights(tmp_path / "c.npz", trainer.ll_model)
    with pytest.raises(CheckpointError, match=r"w\.npz is no jboat checkpoint: it holds arrays alone.*load_weights"):
        trainer.load_checkpoint(tmp_path / "w.npz", what="models")


def test_a_parameter_may_be_called_as_what_a_checkpoint_begins_with(tmp_path):
    class Odd(jt.Module):
        def __init__(self):
            self.document = jt.zeros(3)

    np.savez(tmp_path / "w.npz", document=np.ones(3, "float32"))
    odd = Odd()
    load_weights(tmp_path / "w.npz", odd)
    np.testing.assert_array_equal(odd.document.numpy(), np.ones(3))
