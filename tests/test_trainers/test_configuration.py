"""A trainer from a file: what is built, every error at once, and BOAT's own files."""

import json
import logging

from jboat import BilevelTrainer
from jboat.__main__ import main
from jboat.callbacks import EarlyStopping
from jboat.trainers.configuration.boat_files import translated
from jboat.trainers.configuration.build import ConfigurationError, with_settings
import jittor as jt
import numpy as np
from problems import Quadratic
import pytest

TASK = """
import jboat
from problems import Quadratic

problem = Quadratic()
ul_model, ll_model = problem.models()
f, F = problem.f, problem.F


def shifted(batch, ul_model, ll_model, shift=0.0, **_):
    return F(batch, ul_model, ll_model) + shift


def new_lower():
    return problem.models()[1]


def batches():
    yield {}


def metric(batch, ul_model, ll_model):
    return ll_model().sum()
"""

CONFIG = {
    "ll_model": "task:new_lower",
    "ul_model": "task:ul_model",
    "ll_objective": "task:f",
    "ul_objective": "task:F",
    "ll_optimizer": {"class": "SGD", "lr": 0.1, "momentum": 0.5},
    "ul_optimizer": {"class": "Adam", "lr": 0.05},
    "ll_loader": "task:batches",
    "ul_loader": "task:batches",
    "val_loader": "task:batches",
    "gm_op": ["NGD"],
    "na_op": ["PTT", "CG"],
    "lower_iters": 3,
    "solver_config": {"CG": {"k": 4}},
    "metrics": {"total": "task:metric"},
    "callbacks": [
        {"class": "EarlyStopping", "monitor": "ul_loss", "mode": "min", "patience": 50},
        {"class": "CSVLogger"},
    ],
    "seed": 3,
    "fit": {"max_steps": 4},
}


@pytest.fixture(autouse=True)
def task(tmp_path, monkeypatch):
    (tmp_path / "task.py").write_text(TASK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "task", raising=False)


def write(path, config):
    path.write_text(json.dumps(config))
    return path


def test_a_trainer_is_what_its_file_says(tmp_path):
    trainer = BilevelTrainer.from_config(write(tmp_path / "c.json", {**CONFIG, "logger_dir": "logs"}))
    assert (trainer.gm_op, trainer.na_op, trainer.lower_iters, trainer.seed) == (("NGD",), ("PTT", "CG"), 3, 3)
    assert isinstance(trainer.ul_optimizer, jt.optim.Adam)
    assert trainer.ll_optimizer.momentum == 0.5
    assert trainer.solver_config == {"CG": {"k": 4}}
    assert any(isinstance(c, EarlyStopping) for c in trainer.callbacks.callbacks)
    history = trainer.fit({}, {}, max_steps=2, val_loader={})
    assert "val_total" in history.rows[-1]


def test_toml_and_a_dict_mean_the_same(tmp_path):
    (tmp_path / "c.toml").write_text(
        'll_model = "task:new_lower"\nul_model = "task:ul_model"\nll_objective = "task:f"\nul_objective = "task:F"\n'
        "lower_iters = 2\n[ll_optimizer]\nclass = 'SGD'\nlr = 0.1\n[ul_optimizer]\nclass = 'SGD'\nlr = 0.1\n"
        "[solver_config.RGT]\ntruncate_iter = 1\n"
    )
    from_file = BilevelTrainer.from_config(tmp_path / "c.toml")
    config = {k: CONFIG[k] for k in ("ll_model", "ul_model", "ll_objective", "ul_objective")}
    optimizer = {"class": "SGD", "lr": 0.1}
    from_dict = BilevelTrainer.from_config(
        {**config, "ll_optimizer": optimizer, "ul_optimizer": optimizer, "lower_iters": 2},
        solver_config={"RGT": {"truncate_iter": 1}},
    )
    assert from_file.configuration() == from_dict.configuration()


def test_objects_take_precedence():
    problem = Quadratic()
    ul_model, ll_model = problem.models()
    config = {key: value for key, value in CONFIG.items() if not key.endswith("model") and key != "callbacks"}
    trainer = BilevelTrainer.from_config(config, ul_model=ul_model, ll_model=ll_model, callbacks=[])
    assert trainer.ll_model is ll_model
    assert trainer.ul_optimizer.param_groups[0]["params"][0] is ul_model.value


WRONG = {
    **{k: v for k, v in CONFIG.items() if k != "ul_objective"},
    "lower_iter": 3,
    "ll_model": "task:new_lowr",
    "ul_loader": "tasks:batches",
    "na_op": ["PPT", "CG"],
    "seed": "three",
    "ll_optimizer": {"class": "SDG", "lr": 0.1},
    "ul_optimizer": {"class": "Adam", "rate": 0.1},
    "solver_config": {"CG": {"kk": 4}, "NSS": {}},
    "callbacks": [{"class": "EarlyStoping"}, {"class": "ModelCheckpoint", "save_topk": 1}, {"class": "EarlyStopping"}],
    "fit": {"max_step": 4},
}


def test_validate_reports_every_error_at_once(tmp_path, capsys):
    assert main(["validate", str(write(tmp_path / "c.json", WRONG))]) == 2
    printed = capsys.readouterr().err
    for sentence in (
        "unknown key 'lower_iter'. Did you mean 'lower_iters'?",
        "'ul_objective' is missing",
        "'ll_model': 'task:new_lowr': task has no 'new_lowr'. Did you mean 'new_lower'?",
        "cannot import tasks",
        "unknown operator 'PPT'",
        "'seed' must be an integer, got 'three'",
        "no optimizer 'SDG' in jt.optim. Did you mean 'SGD'?",
        "Adam has no argument 'rate'",
        "'lr'",
        "has no key 'kk'",
        "no section 'NSS'",
        "'callbacks[0]': no callback 'EarlyStoping'. Did you mean 'EarlyStopping'?",
        "'callbacks[1]': ModelCheckpoint has no argument 'save_topk'. Did you mean 'save_top_k'?",
        "'fit' has no key 'max_step'. Did you mean 'max_steps'?",
    ):
        assert sentence in printed, sentence
    with pytest.raises(ConfigurationError, match="unknown key 'lower_iter'") as raised:
        BilevelTrainer.from_config(WRONG)
    assert len(raised.value.errors) > 8


def test_validate_accepts_what_is_right(tmp_path, capsys):
    assert main(["validate", str(write(tmp_path / "c.json", CONFIG))]) == 0
    assert "is valid" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [("c.json", "{", "no valid JSON"), ("c.toml", "a = ", "no valid TOML"), ("c.json", "[]", "must hold a table")],
)
def test_files_that_cannot_be_read(tmp_path, capsys, name, text, message):
    (tmp_path / name).write_text(text)
    assert main(["validate", str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err
    assert main(["validate", str(tmp_path / "missing.json")]) == 2
    assert "cannot read" in capsys.readouterr().err


def test_train_runs_it_and_records_what_it_ran(tmp_path, capsys):
    config = write(tmp_path / "c.json", CONFIG)
    settings = ["--set", "logger_dir=out", "--set", "solver_config.CG.k=2", "--set", "fit.max_steps=3"]
    assert main(["train", str(config), *settings]) == 0
    assert "3 outer steps: ll_loss" in capsys.readouterr().out
    recorded = json.loads((tmp_path / "out" / "configuration.json").read_text())
    assert recorded["solver_config"] == {"CG": {"k": 2}}
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["seed"] == 3
    assert run["jittor"]
    assert "git_commit" in run
    assert len((tmp_path / "out" / "metrics.csv").read_text().splitlines()) == 4


def test_settings():
    assert with_settings({"a": {"b": 1}}, ["a.b=2", "a.c=[1]", "d.e=text"]) == {
        "a": {"b": 2, "c": [1]},
        "d": {"e": "text"},
    }
    with pytest.raises(ConfigurationError, match="needs key=value"):
        with_settings({}, ["a"])
    with pytest.raises(ConfigurationError, match="a is no table"):
        with_settings({"a": 1}, ["a.b=2"])


BOAT = {
    "fo_op": None,
    "gm_op": ["DI", "NGD"],
    "na_op": ["RGT", "RAD"],
    "lower_iters": 4,
    "lower_level_model": None,
    "accumulate_grad": False,
    "copy_last_param": True,
    "return_grad": False,
    "loss_log_path": "x.json",
    "device": "cpu",
    "GDA": {"alpha_init": 0.0, "alpha_decay": 0.0},
    "RGT": {"truncate_iter": 2},
    "DI": {"lr": "0.1"},
    "PGDO": {"updata_y_ahead": True, "penalty": "difference"},
}
LOSSES = {
    "lower_level_loss": {"function": "task.f", "params": {}},
    "upper_level_loss": {"function": "task.shifted", "params": {"shift": 2.0}},
}


def test_boats_files_are_accepted(tmp_path, caplog):
    write(tmp_path / "boat_config.json", BOAT)
    write(tmp_path / "loss_config.json", LOSSES)
    problem = Quadratic()
    ul_model, ll_model = problem.models()
    with caplog.at_level(logging.WARNING):
        trainer = BilevelTrainer.from_config(
            tmp_path,
            ll_model=ll_model,
            ul_model=ul_model,
            ll_optimizer=jt.optim.SGD(list(ll_model.parameters()), 0.1),
            ul_optimizer=jt.optim.SGD(list(ul_model.parameters()), 0.1),
        )
    assert (trainer.gm_op, trainer.na_op, trainer.lower_iters) == (("DI", "NGD"), ("RGT", "RAD"), 4)
    assert trainer.solver_config == {"RGT": {"truncate_iter": 2}, "DI": {"lr": 0.1}}
    assert trainer.current_run.problem.ul_objective.keywords == {"shift": 2.0}
    for note in ("return_grad is ignored", "copy_last_param = True became warm_start"):
        assert note in caplog.text
    exact = problem.reference(("RGT", "RAD"), K=4, lr=0.1, M=2)[0]
    np.testing.assert_allclose(trainer.hypergradient({}, {}).gradients[0].numpy(), exact, rtol=1e-4, atol=1e-5)


def test_a_bound_function_is_checked(tmp_path, capsys):
    bound = {"function": "task:shifted", "params": {"shift": 3.0}}
    trainer = BilevelTrainer.from_config(write(tmp_path / "c.json", {**CONFIG, "ul_objective": bound}))
    plain = BilevelTrainer.from_config(write(tmp_path / "c.json", CONFIG))
    shift = trainer.hypergradient({}, {}).upper_loss - plain.hypergradient({}, {}).upper_loss
    assert shift == pytest.approx(3.0, abs=1e-4)
    wrong = {**CONFIG, "ul_objective": {"function": "task:shiftd", "parms": {}, "params": 1}}
    assert main(["validate", str(write(tmp_path / "c.json", wrong))]) == 2
    printed = capsys.readouterr().err
    for sentence in ("'ul_objective' has no key 'parms'", "has no 'shiftd'", "'params' must be a table, got 1"):
        assert sentence in printed


def test_boats_difference_is_the_value_penalty():
    notes = translated({**BOAT, "fo_op": "PGDO", "gm_op": None, "na_op": None})
    assert notes[0]["solver_config"] == {"PGDO": {"penalty": "value"}}
    assert "PGDO.penalty = 'difference' is called 'value'" in notes[1]


def test_boats_misspelt_key_is_noted_and_objects_in_its_dict_are_taken(caplog):
    problem = Quadratic()
    ul_model, ll_model = problem.models()
    config = {
        **BOAT,
        "fo_op": "PGDO",
        "lower_level_model": ll_model,
        "upper_level_model": ul_model,
        "lower_level_opt": jt.optim.SGD(list(ll_model.parameters()), 0.1),
        "upper_level_opt": jt.optim.SGD(list(ul_model.parameters()), 0.1),
        **LOSSES,
    }
    with caplog.at_level(logging.WARNING):
        trainer = BilevelTrainer.from_config(config)
    assert trainer.fo_op == "PGDO"
    assert trainer.ll_model is ll_model
    assert "PGDO.updata_y_ahead is ignored" in caplog.text
