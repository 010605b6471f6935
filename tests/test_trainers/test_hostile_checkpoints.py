"""A checkpoint with the right checksum may come from anyone: every value of it is looked at before anything changes."""

import copy
import io
import logging
import math
import os
import tracemalloc

from jboat import registry
from jboat.callbacks import (
    Callback,
    DISchedule,
    EarlyStopping,
    GDASchedule,
    LRSchedule,
    ModelCheckpoint,
    NaNGuard,
    TensorBoardLogger,
)
from jboat.trainers.persistence import archive
from jboat.trainers.persistence.checkpoint import CheckpointError, snapshot
import jittor as jt
import numpy as np
from problems import Quadratic
import pytest
import small_trainers


class Numbers(jt.dataset.Dataset):
    """Shuffled, so that a checkpoint holds its generator."""

    def __init__(self):
        super().__init__()
        self.set_attrs(batch_size=2, total_len=6, shuffle=True)

    def __getitem__(self, i):
        return np.array([i], "float32"), np.array([i], "float32")


def shuffled():
    for i in np.random.permutation(3):
        yield {"i": float(i)}


def loaders():
    return {"ll_loader": shuffled, "ul_loader": Numbers(), "val_loader": Numbers(), "val_every": 1}


def make(folder, *, callbacks=None, **arguments):
    ul_model, _ = Quadratic().models()
    ul_optimizer = jt.optim.Adam([{"params": list(ul_model.parameters()), "lr": 0.05}], 0.1)
    every = [
        EarlyStopping("val_ul_loss", patience=50, restore_best=True),
        NaNGuard(),
        LRSchedule(jt.lr_scheduler.CosineAnnealingLR(ul_optimizer, T_max=20)),
        GDASchedule(lambda step: 0.5 / (1 + step)),
        DISchedule(lambda step: 0.1 / (1 + step)),
        TensorBoardLogger(folder / "log"),
        ModelCheckpoint(folder, monitor="val_ul_loss", every_n_steps=1, save_top_k=2),
    ]
    return small_trainers.make(
        ll_optimizer=lambda params: jt.optim.SGD([{"params": params, "lr": 0.1}], 0.1, momentum=0.5),
        ul_model=ul_model,
        ul_optimizer=ul_optimizer,
        callbacks=every if callbacks is None else callbacks,
        seed=3,
        **{"gm_op": ["GDA", "DI", "NGD"], "ll_optimizer_state": "carry", **arguments},
    )


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """What a checkpoint in the middle of a pass holds."""
    folder = tmp_path_factory.mktemp("honest")
    make(folder).fit(**loaders(), max_steps=4)
    return archive.read(folder / "last.npz")


def places(value, place=()):
    """Every place of a tree."""
    yield place
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield from places(entry, (*place, key))


def at(tree, place):
    for key in place:
        tree = tree[key]
    return tree


def changed(tree, place, value):
    """A tree with another value at a place, which shares all others; DELETE takes the entry away."""
    parent = result = copy.copy(tree)
    for key in place[:-1]:
        parent[key] = copy.copy(parent[key])
        parent = parent[key]
    if value is DELETE:
        del parent[place[-1]]
    else:
        parent[place[-1]] = value
    return result


DELETE = object()
STRANGE = ["../../victim.txt", "/etc/passwd", [], {}, [[1e9, "../x"]], -1, 1e400, None, True, np.zeros(3, "float32")]
HARMLESS = ("state", "metrics"), ("state", "validation"), ("history", "columns")  # any number, under any name
COUNTS = {"step", "epoch", "first_step", "first_epoch", "n_step", "passes", "position", "seed", "wait", "best_step"}
COUNTS |= {"skipped", "in_a_row", "written", "rows"}


def kind(value):
    if isinstance(value, np.ndarray):
        return "array", value.dtype, value.shape
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "number"
    return type(value)


def mutations(tree):
    """Trees that this trainer cannot have written, with what was done to each."""
    for place in places(tree):
        if not place or any(place[: len(prefix)] == prefix and len(place) > len(prefix) for prefix in HARMLESS):
            continue
        if "dataset" in place or place == ("configuration", "device"):
            continue  # looked at when there is a loader, and not compared
        value, name = at(tree, place), place[-1]
        if not may_be_absent(place):
            yield "without", place, changed(tree, place, DELETE)
        for strange in STRANGE:
            if kind(strange) != kind(value) and not (strange is None and may_be_none(place)):
                if isinstance(value, dict) and len(place) > 1 and isinstance(strange, dict):
                    continue  # what is missing in it is looked at entry by entry
                yield f"{strange!r} as", place, changed(tree, place, strange)
        if kind(value) == "number" and not {"saved", "best"} & set(place[:-1]):
            yield "NaN as", place, changed(tree, place, math.nan)
        if name in COUNTS and place[0] != "configuration" and not isinstance(value, dict):
            for wrong in (-1, 0.5, 2**60):
                yield f"{wrong} as", place, changed(tree, place, wrong)
        if isinstance(value, np.ndarray):
            yield "longer", place, changed(tree, place, np.concatenate([value.ravel(), value.ravel()]))
            yield "of other dtype", place, changed(tree, place, value.astype("int16"))
            yield "big-endian", place, changed(tree, place, value.astype(value.dtype.newbyteorder(">")))
        if isinstance(value, dict) and place[0] not in ("configuration", "callbacks"):
            yield "with another entry", place, changed(tree, (*place, "__class__"), [1.0])
        if isinstance(value, list):
            yield "one more in", place, changed(tree, place, [*value, *value[-1:], 1.0])


NOT_IN_OLDER_FILES = [("ll_optimizer", "groups"), ("ul_optimizer", "groups"), ("schedules",)]
SAME_WITHOUT = [("solver_config",), ("schedules", "LRSchedule(upper)")]  # an empty section; a schedule that is new


def may_be_absent(place):
    """Whether the entry may be missing: options are those of the trainer then, and callbacks start afresh."""
    if place[0] == "configuration" and place[1:] in [*NOT_IN_OLDER_FILES, *SAME_WITHOUT]:
        return True
    if place[-2:-1] == ("saved",):  # one file less is kept
        return True
    if place[0] in ("solver_config", "configuration") and len(place) > 1:
        return place[0] == "solver_config"
    return (place[0] == "callbacks" and len(place) == 2) or place[-1] in ("grads", "best", "written", "val")


def may_be_none(place):
    optional = {("random_seed",), ("initialization",), ("state", "stop_reason"), ("loaders",)}
    score = place[-3:-2] == ("saved",) and place[-1] == 0
    return score or place in optional or place[-1] in ("best", "ratios", "seed", "gauss")


def sound(trainer):
    """What of a trainer must not change, as arrays and values."""
    tree = snapshot(trainer)
    tree["options"] = copy.deepcopy(trainer.solver_config)
    return tree


def same(a, b):
    """Whether two trees are equal to the bit, types included; numpy's comparison of so many takes half a minute."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    return a == b or (a != a and b != b)


def test_every_mutation_of_every_value_is_refused_and_changes_nothing(honest, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)  # thousands of files, none of which a power cut has to spare
    trainer = make(tmp_path / "m")
    trainer.fit(**loaders(), max_steps=1)
    before, path, count, wrong = sound(trainer), tmp_path / "evil.npz", 0, []
    for what, place, tree in mutations(honest):
        archive.write(path, tree)
        count += 1
        try:
            trainer.load_checkpoint(path)
            wrong.append((what, place))
        except CheckpointError as error:
            if str(path) not in str(error):
                wrong.append(("not named by", what, place))
        after = sound(trainer)
        if not same(after, before):
            wrong.append(("changed by", what, place))
            before = after
    assert not wrong
    assert count > 500


def test_the_honest_one_is_taken_and_trains_on(honest, tmp_path):
    path = tmp_path / "honest.npz"
    archive.write(path, honest)
    trainer = make(tmp_path / "m")
    trainer.fit(**loaders(), max_steps=6, resume_from=path)
    whole = make(tmp_path / "w")
    whole.fit(**loaders(), max_steps=6)
    np.testing.assert_equal(trainer.values(), whole.values())


def first_key(tree, name):
    return next(key for key in tree["callbacks"] if key.startswith(name))


@pytest.mark.parametrize(
    "name", ["../victim.txt", "sub/step-00000001.npz", "victim.txt", "step-1.npz", "step-00000001.npz\n", "", 3]
)
def test_a_checkpoint_names_no_file_but_its_own(honest, name, tmp_path):
    victim = tmp_path / "victim.txt"
    victim.write_text("precious")
    for listed in (name, str(victim)):
        for where, entry in (("saved", [[1e9, listed], [1e9, listed]]), ("best", [1e9, listed])):
            tree = copy.deepcopy(honest)
            tree["callbacks"][first_key(tree, "ModelCheckpoint")][where] = entry
            archive.write(tmp_path / "evil.npz", tree)
            trainer = make(tmp_path / "m")
            with pytest.raises(CheckpointError, match="is no score and name of a step"):
                trainer.fit(**loaders(), max_steps=8, resume_from=tmp_path / "evil.npz")
            assert victim.read_text() == "precious"


def test_what_is_not_there_is_not_pruned(honest, tmp_path):
    tree = copy.deepcopy(honest)
    tree["callbacks"][first_key(tree, "ModelCheckpoint")]["saved"] = [[1e9, "step-00000001.npz"]] * 2
    archive.write(tmp_path / "evil.npz", tree)
    (tmp_path / "step-00000001.npz").write_text("beside the checkpoint, not in the folder of this run")
    make(tmp_path / "m").fit(**loaders(), max_steps=8, resume_from=tmp_path / "evil.npz")
    assert (tmp_path / "step-00000001.npz").exists()


@pytest.mark.parametrize("missing", ["configuration", "variables", "ul_optimizer", "auxiliary", "history", "loaders"])
def test_a_missing_part_is_named(honest, missing, tmp_path):
    archive.write(tmp_path / "evil.npz", {key: value for key, value in honest.items() if key != missing})
    with pytest.raises(CheckpointError, match=rf"evil\.npz does not fit this trainer: it has no {missing}"):
        make(tmp_path / "m").load_checkpoint(tmp_path / "evil.npz")


def peak_of_refusal(path, trainer, message):
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=message):
            trainer.load_checkpoint(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_small_file_takes_little_memory(honest, tmp_path):
    trainer, path = make(tmp_path / "m"), tmp_path / "evil.npz"
    for rows, columns in ((30_000_000, {}), (30_000_000, honest["history"]["columns"]), (10**18, {})):
        tree = copy.deepcopy(honest)
        tree["history"] = {"rows": rows, "columns": columns}
        archive.write(path, tree)
        assert path.stat().st_size < 64 << 10
        assert peak_of_refusal(path, trainer, "history") < 4 << 20


def test_an_array_is_named_once(honest, tmp_path):
    trainer, path = make(tmp_path / "m"), tmp_path / "evil.npz"
    archive.write(path, honest)
    arrays = dict(np.load(path))
    document = archive.json.loads(arrays.pop("document").tobytes())
    shared = document["tree"]["history"]["columns"]["step"]
    document["tree"]["history"]["columns"] = {f"c{i}": shared for i in range(1000)}
    rewrite(path, document, arrays)
    assert peak_of_refusal(path, trainer, "names one twice") < 16 << 20


def rewrite(path, document, arrays):
    """Seal a file with any document, as an attacker would."""
    text = document if isinstance(document, bytes) else archive.json.dumps(document).encode()
    with io.BytesIO() as buffer:
        np.savez(buffer, document=np.frombuffer(text, np.uint8), **arrays)
        content = buffer.getvalue()
    digest = archive.hashlib.sha256(content).hexdigest().encode()
    path.write_bytes(content[:-2] + archive.struct.pack("<H", 64) + digest)


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'"' + b"\\\\" * 10 + b'",' + b"[" * 200_000,
        b'["\\"[[", ' + b"[" * 200_000,
        ('{"format": 1, "tree": ' + "[" * 200_000).encode("utf-16"),
        b'{"format": 1, "tree": "' + b"x" * 10,
        b'{"format": 1, "tree": ' + b"9" * 100_000 + b"}",
        b"\xff\xfe",
        b"",
        b'{"format": 1, "tree": {"__array__": "0"}}',
        b'{"format": 1, "tree": {"__array__": true}}',
        b'{"format": 1, "tree": {"__array__": -1}}',
        b'{"format": 1, "tree": {"__array__": {"a": 1}}}',
        b'{"format": 1, "tree": {"__array__": 0, "more": 1}}',
        b'{"format": 1, "tree": [{"__array__": 0}, {"__array__": 0}]}',
    ],
)
def test_documents_that_are_none(text, tmp_path):
    path = tmp_path / "evil.npz"
    rewrite(path, text, {"array_0": np.zeros(2)})
    with pytest.raises(CheckpointError, match=r"evil\.npz"):
        make(tmp_path / "m").load_checkpoint(path)


def test_brackets_in_a_text_are_no_levels(tmp_path):
    tree = {"text": '["\\' + "[{" * 500, "more\\": '\\\\"[' * 300}
    archive.write(tmp_path / "tree.npz", tree)
    assert archive.read(tmp_path / "tree.npz") == tree


@pytest.mark.parametrize("what", ["position", "generator", "kind"])
def test_a_loader_is_sent_only_where_it_can_have_stood(honest, what, tmp_path):
    tree = copy.deepcopy(honest)
    stream = tree["loaders"]["ul"]
    if what == "position":
        stream["digest"] = "00"
    elif what == "generator":
        stream["generators"]["dataset"] = {"bit_generator": "MT19937", "state": {"key": np.zeros(624), "pos": 10**9}}
    else:
        stream["generators"]["dataset"]["state"]["state"] = 2**200
    stream["open"], stream["position"], stream["passes"] = True, 1, 1
    archive.write(tmp_path / "evil.npz", tree)
    with pytest.raises(CheckpointError, match="ul_loader"):
        make(tmp_path / "m").fit(**loaders(), max_steps=8, resume_from=tmp_path / "evil.npz")


class Fussy(Callback):
    """A callback of the user's that cannot take what a file holds."""

    def __init__(self, name, failure=None):
        self.name, self.failure, self.value = name, failure, 0

    @property
    def key(self):
        return self.name

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]
        if self.failure is not None and self.value:
            raise self.failure


@pytest.mark.parametrize("failure", [LookupError("no"), ValueError("no"), AttributeError("no"), OverflowError("no")])
def test_where_a_callback_refuses_the_others_get_their_states_back(failure, tmp_path):
    saved = make(tmp_path, callbacks=[Fussy("first"), Fussy("second")])
    for callback in saved.callbacks.callbacks:
        callback.value = 7
    saved.save_checkpoint(tmp_path / "a.npz")
    trainer = make(tmp_path, callbacks=[Fussy("first"), Fussy("second", failure)])
    before = sound(trainer)
    with pytest.raises(CheckpointError, match=r"a\.npz does not fit this trainer: .*no"):
        trainer.load_checkpoint(tmp_path / "a.npz")
    np.testing.assert_equal(sound(trainer), before)


METHODS = [name for name in registry.operators("fo")]


@pytest.mark.parametrize("method", [*METHODS, "DM"])
def test_what_a_method_keeps_comes_back_or_is_refused(method, tmp_path):
    chain = {"gm_op": ["DM"]} if method == "DM" else {"gm_op": ["NGD"], "fo_op": method}

    def build():
        return make(tmp_path, callbacks=[NaNGuard("skip")], **chain)  # VSO diverges here

    whole, stopped, resumed = build(), build(), build()
    whole.fit({}, {}, max_steps=3)
    stopped.fit({}, {}, max_steps=2)
    stopped.save_checkpoint(tmp_path / "a.npz")
    resumed.fit({}, {}, max_steps=3, resume_from=tmp_path / "a.npz")
    np.testing.assert_equal(resumed.values(), whole.values())
    tree = archive.read(tmp_path / "a.npz")
    kept = tree["auxiliary"]
    for auxiliary in ({"stranger": []}, {**kept, "more": []}, *({name: values[:-1]} for name, values in kept.items())):
        archive.write(tmp_path / "evil.npz", {**tree, "auxiliary": auxiliary})
        with pytest.raises(CheckpointError, match="auxiliary"):
            build().load_checkpoint(tmp_path / "evil.npz")


def test_another_number_of_parameter_groups_changes_nothing(honest, tmp_path):
    tree = copy.deepcopy(honest)
    tree["ul_optimizer"]["groups"] *= 2
    archive.write(tmp_path / "evil.npz", tree)
    trainer = make(tmp_path / "m")
    before = sound(trainer)
    with pytest.raises(CheckpointError, match="ul_optimizer: 2 parameter groups were saved, there are 1"):
        trainer.load_checkpoint(tmp_path / "evil.npz")
    np.testing.assert_equal(sound(trainer), before)


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("GDA", {"alpha_init": 1.5}, r"alpha_init.*must lie strictly in \(0, 1\)"),
        ("DI", {"lr": -1.0}, r"lr.*must be at least 0"),
        ("DI", {"rate": 1.0}, "has no key 'rate'"),
        ("RGT", {"truncate_iter": "2"}, "truncate_iter"),
        ("Evil", {"lr": 1.0}, "Evil"),
    ],
)
def test_options_pass_the_operators_own_checks(honest, section, value, message, tmp_path):
    tree = copy.deepcopy(honest)
    tree["solver_config"][section] = value
    archive.write(tmp_path / "evil.npz", tree)
    trainer = make(tmp_path / "m")
    with pytest.raises(CheckpointError, match=message):
        trainer.load_checkpoint(tmp_path / "evil.npz")
    assert trainer.solver_config == {}


def test_a_pipe_beside_the_checkpoints_is_no_checkpoint(tmp_path, caplog):
    trainer = make(tmp_path / "m")
    trainer.fit(**loaders(), max_steps=2)
    os.mkfifo(tmp_path / "m" / "step-00000009.npz")
    again = make(tmp_path / "m")
    with caplog.at_level(logging.WARNING):
        again.fit(**loaders(), max_steps=2, resume_from="last")
    assert again.state.step == 2


@pytest.mark.parametrize("name", ["pipe", "/dev/zero", "loop", "", "a\0b", "x" * 5000])
def test_what_is_no_file_is_refused_at_once(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    os.symlink("loop", "loop")
    with pytest.raises(CheckpointError, match="cannot be read"):
        make(tmp_path / "m").load_checkpoint(name)
