"""Configurations that name what does not belong, or cannot be taken at their word: nothing runs, and all is named."""

import itertools
import json
import os
import sys
import threading

from jboat import BilevelTrainer
from jboat.__main__ import main
from jboat.trainers.configuration import build
from jboat.trainers.configuration.build import ConfigurationError, read, with_settings
import jittor as jt
import pytest

TASK = """
from pathlib import Path

import jboat
import jittor as jt
from problems import Quadratic

problem = Quadratic()
ul_model, ll_model = problem.models()
f, F = problem.f, problem.F
marker = Path("called")


class Stranger:
    def __init__(self, *args, **kwargs):
        marker.touch()

    __call__ = __init__


class NeedsMore(jt.Module):
    def __init__(self, width):
        marker.touch()


class Iterates:
    def __init__(self):
        marker.touch()

    def __iter__(self):
        return iter([{}])


stranger = object()
values = []


def lower():
    return problem.models()[1]


def makes_text() -> str:
    marker.touch()
    return "text"


def makes_nothing():
    return None


def fails():
    raise LookupError("no such model")


def leaves():
    raise SystemExit(3)


def needs(argument):
    marker.touch()


def needs_two(a, b):
    marker.touch()


def batches():
    yield {}


class Careless(jboat.callbacks.Callback):
    def __init__(self, text="a"):
        if text == "exit":
            raise SystemExit("left")
        if text == "fail":
            raise OSError("no disk")
"""

CONFIG = {
    "ll_model": "task:lower",
    "ul_model": "task:ul_model",
    "ll_objective": "task:f",
    "ul_objective": "task:F",
    "ll_optimizer": {"class": "SGD", "lr": 0.1},
    "ul_optimizer": {"class": "SGD", "lr": 0.1},
    "ll_loader": "task:batches",
    "ul_loader": "task:batches",
    "lower_iters": 3,
    "fit": {"max_steps": 1},
}


@pytest.fixture(autouse=True)
def task(tmp_path, monkeypatch):
    (tmp_path / "task.py").write_text(TASK)
    (tmp_path / "raises.py").write_text("raise LookupError('not today')")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(0)")
    (tmp_path / "broken.py").write_text("def f(:")
    (tmp_path / "missing_import.py").write_text("import no_such_module_at_all")
    (tmp_path / "moody.py").write_text("def __getattr__(name):\n    raise RuntimeError('ask later')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "task", raising=False)
    return tmp_path


def errors_of(config):
    """What is wrong with a configuration; whatever else is raised fails the test."""
    try:
        build.build(config, {}, BilevelTrainer, with_loaders=True)
    except ConfigurationError as error:
        return error.errors
    return []


def faults(changes):
    found = errors_of({**CONFIG, **changes})
    assert found, f"{changes} are taken for right"
    return found


def test_the_configuration_itself_is_right(task):
    assert BilevelTrainer.from_config(CONFIG).fit({}, {}, max_steps=1).rows
    assert not (task / "called").exists()


PLACES = {
    "ll_model": lambda name: {"ll_model": name},
    "ll_objective": lambda name: {"ll_objective": name},
    "gda_loss": lambda name: {"gda_loss": name},
    "bound": lambda name: {"ul_objective": {"function": name, "params": {}}},
    "bound with params": lambda name: {"ul_objective": {"function": name, "params": {"argument": 1}}},
    "metrics": lambda name: {"metrics": {"score": name}},
    "ll_optimizer": lambda name: {"ll_optimizer": {"class": name, "lr": 0.1}},
    "callbacks": lambda name: {"callbacks": [{"class": name}]},
    "callbacks with an argument": lambda name: {"callbacks": [{"class": name, "command": "touch called"}]},
    "ul_loader": lambda name: {"ul_loader": name},
    "trainer": lambda name: {"trainer": name},
}
STRANGERS = [
    "os:system", "os:abort", "os:getcwd", "subprocess:Popen", "shutil:rmtree", "builtins:print", "builtins:breakpoint",
    "pathlib:Path", "builtins:dict", "json:dumps", "task:Stranger", "task:NeedsMore", "task:needs",
    "task:values.append", "task:makes_text", "task:stranger", "task:problem", "task:marker.touch",
]  # fmt: skip


# a function that needs no argument may be a generator factory, which fit calls
FOREIGN = [pair for pair in itertools.product(PLACES, STRANGERS) if pair != ("ul_loader", "task:makes_text")]


@pytest.mark.parametrize(("place", "name"), FOREIGN)
def test_what_does_not_belong_is_refused_before_it_is_called(task, place, name):
    found = faults(PLACES[place](name))
    key = {"bound": "ul_objective", "bound with params": "ul_objective"}.get(place, place.partition(" ")[0])
    assert any(key in sentence for sentence in found)
    assert not (task / "called").exists()


def test_the_reason_names_what_was_given_and_what_is_wanted():
    for changes, sentence in (
        ({"callbacks": [{"class": "os:system"}]}, "'callbacks[0]': 'os:system' must be a class derived from Callback"),
        ({"ll_model": "os:getcwd"}, "'ll_model': 'os:getcwd' must be a jittor Module, a class of them, or a function"),
        ({"ll_model": "task:makes_text"}, "got task.makes_text, which makes a str"),
        ({"ll_model": "task:makes_nothing"}, "'task:makes_nothing' made a NoneType, which is no jittor Module"),
        ({"ll_model": "task:needs"}, "must be callable without arguments: missing a required argument: 'argument'"),
        ({"ll_objective": "task:needs_two"}, "cannot be called with 3 arguments: too many positional arguments"),
        ({"ll_objective": "task:Stranger"}, "'ll_objective': 'task:Stranger' must be a function of yours"),
        ({"ul_loader": "task:values"}, "ul_loader is empty"),
        ({"trainer": "task:Stranger"}, "must be a class derived from BilevelTrainer, got task.Stranger"),
    ):
        assert any(sentence in found for found in faults(changes)), (sentence, faults(changes))


def test_loaders_of_every_form_are_accepted_and_none_is_called(task):
    for name in ("task:batches", "task:Iterates"):
        build.build({**CONFIG, "ll_loader": name}, {}, BilevelTrainer, with_loaders=True)
    assert not (task / "called").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raises:x", "importing raises failed: LookupError: not today"),
        ("leaves:x", "importing leaves failed: SystemExit: 0"),
        ("broken:f", "importing broken failed: SyntaxError"),
        ("missing_import:x", "cannot import missing_import: No module named 'no_such_module_at_all'"),
        ("moody:x", "asking for 'x' failed: RuntimeError: ask later"),
        ("no_such_module:x", "cannot import no_such_module"),
        ("task", "must have the form package.module:name"),
        ("task:", "must have the form"),
        (":x", "must have the form"),
        (".task:x", "must have the form"),
        ("..:x", "must have the form"),
        ("ta sk:x", "must have the form"),
        ("task:x:y", "must have the form"),
        ("task:f.", "must have the form"),
        ("/etc/passwd:x", "must have the form"),
        ("task\0:x", "must have the form"),
        ("", "must have the form"),
        ("task:Upper", "task has no 'Upper'"),
        ("task:f.nothing", "task has no 'nothing'"),
    ],
)
def test_names_that_lead_nowhere(name, message):
    for key in ("ll_model", "ul_objective", "ll_loader"):
        (sentence,) = faults({key: name})
        assert sentence.startswith(f"'{key}': ")
        assert message in sentence


def test_makers_that_fail_or_leave():
    assert faults({"ll_model": "task:fails"}) == ["'ll_model': LookupError: no such model"]
    assert faults({"ll_model": "task:leaves"}) == ["'ll_model': SystemExit: 3"]
    table = {"class": "task:Careless"}
    assert faults({"callbacks": [{**table, "text": "exit"}]}) == ["'callbacks[0]': SystemExit: left"]
    assert faults({"callbacks": [{**table, "text": "fail"}]}) == ["'callbacks[0]': OSError: no disk"]
    assert BilevelTrainer.from_config({**CONFIG, "callbacks": [table]})


def test_the_search_path_is_as_it_was(task, monkeypatch):
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(task))])
    before = list(sys.path)
    BilevelTrainer.from_config(CONFIG)
    assert sys.path == before
    faults({"ll_model": "raises:x"})
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.json", '{"solver_config": {"CG": {"k": 1, "k": 2}}}', "'solver_config.CG': the key 'k' stands twice"),
        ("c.json", '{"seed": 1, "seed": 2}', "the key 'seed' stands twice"),
        ("c.json", '{"callbacks": [{"class": "a", "class": "b"}]}', r"'callbacks[0]': the key 'class' stands twice"),
        ("c.toml", "seed = 1\nseed = 2", "is no valid TOML"),
        ("c.json", '{"seed": NaN}', "NaN is no number that JSON knows"),
        ("c.json", '{"seed": -Infinity}', "-Infinity is no number that JSON knows"),
        ("c.json", '{"seed": 1e999}', "1e999 is too large for a number"),
        ("c.toml", "[solver_config.CG]\ntolerance = nan", "'solver_config.CG.tolerance': a number must be finite, got"),
        ("c.toml", "[fit]\nmax_time = inf", "'fit.max_time': a number must be finite, got inf"),
        ("c.toml", "seed = 1979-05-27", "'seed': dates and times are no values of a setting"),
        ("c.json", "[" * 100_000 + "]" * 100_000, "tables and lists lie more than 32 deep"),
        ("c.json", '{"a":' * 100_000 + "1" + "}" * 100_000, "tables and lists lie more than 32 deep"),
        ("c.json", '{"a": "]]]]]]]]]]", "b": ' + "[" * 40 + "]" * 40 + "}", "tables and lists lie more than 32 deep"),
        ("c.json", '{"a": "\\"]]]]]]]]]]]]", "b": ' + "[" * 40 + "]" * 40 + "}", "lie more than 32 deep"),
        ("c.toml", "a = " + "[" * 100_000 + "]" * 100_000, "tables and lists lie more than 32 deep"),
        ("c.toml", "a = '''\n]]]]]]]]]]]]]]]]]]'''\nb = " + "[" * 40 + "]" * 40, "lie more than 32 deep"),
        ("c.toml", ".".join(["a"] * 5000) + " = 1", "lies more than 32 tables deep"),
        ("c.json", '{"seed": 1}\0', "is no valid JSON"),
        ("c.json", "\ud800".encode("utf-8", "surrogatepass"), "is no valid JSON"),
        ("c.json", "", "is no valid JSON"),
        ("c.toml", "\\", "is no valid TOML"),
    ],
    ids=range(21),
)
def test_files_that_cannot_be_taken_at_their_word(task, capsys, name, text, message):
    (task / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    for command in ("validate", "train"):
        assert main([command, name]) == 2
        printed = capsys.readouterr().err
        assert message in printed
        assert name in printed


def test_brackets_in_texts_and_comments_nest_nothing(task):
    brackets = "[{" * 100
    (task / "c.toml").write_text(f'# {brackets}\na = \'{brackets}\'\nb = """\n{brackets}"""\nc = "\\"{brackets}"\n')
    assert read("c.toml")[0]["a"] == brackets
    (task / "c.json").write_text(json.dumps({"a": brackets, "b": '"' + brackets}))
    assert read("c.json")[0]["a"] == brackets


def test_settings_are_read_as_strictly():
    for setting in ("seed=NaN", "seed=1e999", "a=" + "[" * 100):
        key, _, text = setting.partition("=")
        assert with_settings({}, [setting]) == {key: text}  # no JSON, so a string, which its key then refuses
    with pytest.raises(ConfigurationError, match="'a': the key 'b' stands twice"):
        with_settings({}, ['a={"b": 1, "b": 2}'])
    for setting in ("=5", ".a=5", "a.=5", "a..b=5"):
        with pytest.raises(ConfigurationError, match="needs key=value"):
            with_settings({}, [setting])
    with pytest.raises(ConfigurationError, match="lies more than 32 tables deep"):
        with_settings({}, [".".join(["a"] * 100) + "=1"])


def test_dicts_from_python_are_held_to_the_same():
    endless: dict = {}
    endless["a"] = endless
    for wrong, message in (
        ({"solver_config": {"CG": {"tolerance": float("nan")}}}, "must be finite"),
        ({"metrics": {3: "task:f"}}, "'metrics': keys must be strings, got 3"),
        (endless, "tables deep"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            BilevelTrainer.from_config({**CONFIG, **wrong})


VALUES = [5, -1, 1.5, True, "", "x", "task:f", [], [1], ["x"], {}, {"a": 1}, {"class": "x"}, {"class": 5}, [{}], [[]]]
NESTED = [
    *((key,) for key in build.KEYS),
    *(("fit", key) for key in ("max_epochs", "max_steps", "max_time", "val_every", "resume_from")),
    ("fit", "check_second_order"),
    ("ll_optimizer", "class"),
    ("ll_optimizer", "lr"),
    ("ll_optimizer", "momentum"),
    ("solver_config", "CG"),
    ("metrics", "score"),
    *(("solver_config", "CG", key) for key in ("k", "tolerance")),
    ("solver_config", "GDA", "alpha_init"),
    ("solver_config", "RGT", "truncate_iter"),
    ("solver_config", "PGDO", "gamma_init"),
]


@pytest.mark.parametrize("path", NESTED, ids=".".join)
def test_wrong_kinds_are_errors_of_the_configuration(path):
    for value in VALUES:
        config = json.loads(json.dumps(CONFIG))
        table = config
        for key in path[:-1]:
            table = table.setdefault(key, {})
        table[path[-1]] = value
        found = errors_of(config)
        assert not found or any(key in sentence for sentence in found for key in path), (path, value, found)


def test_objects_of_wrong_kinds_from_python():
    for key in ("ll_model", "ul_model", "ll_optimizer", "ul_optimizer"):
        for value in (3, "x", object(), jt.Module):
            with pytest.raises(ConfigurationError, match=key):
                BilevelTrainer.from_config(CONFIG, **{key: value})


def test_modules_and_optimizers_are_checked_though_other_things_are_wrong():
    found = faults({"ll_model": "task:fails", "lower_iters": 0, "ul_optimizer": {"class": "SGD", "lr": "fast"}})
    assert len(found) == 3
    assert "'ul_optimizer': 'lr' must be a number, got 'fast'" in found


def test_a_device_without_an_end():
    with pytest.raises(ConfigurationError, match=f"/dev/zero is no valid JSON: it has more than {2**24} characters"):
        read("/dev/zero")


def test_a_pipe_is_as_good_as_a_file(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=('{"seed": 5}',))
    writer.start()
    assert read(pipe)[0] == {"seed": 5}
    writer.join()
