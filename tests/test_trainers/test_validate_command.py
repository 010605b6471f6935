"""``validate`` says what ``train`` would refuse, before any data is read."""

import json
import sys

from jboat.__main__ import main
import pytest

TASK = """
from pathlib import Path

import jboat
from problems import Quadratic

problem = Quadratic()
f, F = problem.f, problem.F


def lower():
    return problem.models()[1]


def upper():
    return problem.models()[0]


def batches():
    Path("read").touch()
    yield {}
"""

CONFIG = {
    "ll_model": "task:lower",
    "ul_model": "task:upper",
    "ll_objective": "task:f",
    "ul_objective": "task:F",
    "ll_optimizer": {"class": "SGD", "lr": 0.1},
    "ul_optimizer": {"class": "SGD", "lr": 0.1},
    "ll_loader": "task:batches",
    "ul_loader": "task:batches",
    "na_op": ["RAD"],
    "lower_iters": 3,
    "fit": {"max_steps": 1},
}


@pytest.fixture(autouse=True)
def task(tmp_path, monkeypatch):
    (tmp_path / "task.py").write_text(TASK)
    (tmp_path / "a_file").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "task", raising=False)
    return tmp_path


REFUSED = [
    ({"lower_iters": 0}, "lower_iters must be at least 1, got 0"),
    ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
    ({"lower_batches": "frsh"}, "lower_batches must be one of 'shared', 'fresh', got 'frsh'. Did you mean 'fresh'?"),
    ({"ll_optimizer_state": "cary"}, "ll_optimizer_state must be one of 'reset', 'carry', got 'cary'. Did you mean"),
    ({"device": "gpu"}, "device must be one of 'auto', 'cpu', 'cuda', got 'gpu'"),
    ({"fo_op": "MESOO"}, "fo_op must be one of"),
    ({"na_op": ["RGT", "RAD"]}, "solver_config['RGT']['truncate_iter'] must lie in 1..2 (lower_iters - 1), got 0"),
    (
        {"na_op": ["RGT", "RAD"], "solver_config": {"RGT": {"truncate_iter": 3}}},
        "solver_config['RGT']['truncate_iter'] must lie in 1..2",
    ),
    ({"gm_op": ["DM"], "solver_config": {"DM": {"strategy": "s2"}}}, "must be 's1' without GDA in gm_op, got 's2'"),
    ({"gm_op": ["DM"], "warm_start": False}, "warm_start must be True with gm_op DM"),
    ({"fo_op": "VFO", "lower_batches": "fresh"}, "lower_batches must be 'shared' with fo_op='VFO'"),
    ({"na_op": ["IAD"]}, "IAD needs ul_model and ll_model of equal structure"),
    ({"solver_config": {"CG": {"k": 0}}}, "k of CG and NS must be an integer >= 1, got 0"),
    ({"solver_config": {"CG": {"k": "ten"}}}, "k of CG and NS must be an integer >= 1, got 'ten'"),
    ({"solver_config": {"CG": {"tolerance": "small"}}}, "['CG']['tolerance'] must be a number, got 'small'"),
    ({"solver_config": {"GDA": {"alpha_init": [0.5]}}}, "['GDA']['alpha_init'] must be a number, got [0.5]"),
    ({"solver_config": {"VSO": {"z_lr": None}}}, "['VSO']['z_lr'] must be a number, got None"),
    ({"solver_config": {"PGDO": {"gamma_init": -0.1}}}, "['PGDO']['gamma_init'] must be at least 0, got -0.1"),
    ({"solver_config": {"PGDO": {"gamma_init": 0.0, "gamma_max": 0.0}}}, "['gamma_max'] must be positive, got 0"),
    (
        {"callbacks": [{"class": "ModelCheckpoint", "dirpath": "m", "save_top_k": -2}]},
        "'callbacks[0]': save_top_k must be -1",
    ),
    ({"callbacks": [{"class": "ModelCheckpoint", "dirpath": 5}]}, "'callbacks[0]': "),
    ({"callbacks": [{"class": "GradientClipping", "max_norm": "1"}]}, "'callbacks[0]': "),
    (
        {"callbacks": [{"class": "EarlyStopping", "monitor": "ul_loss", "mode": "least"}]},
        "'callbacks[0]': mode must be",
    ),
    ({"callbacks": [{"class": "StepTimer"}, {"class": "StepTimer"}]}, "two callbacks have the same key"),
    ({"callbacks": [{"class": "HOOKS"}]}, "'callbacks[0]': no callback 'HOOKS'"),
    ({"callbacks": [{"class": "schedules"}]}, "'callbacks[0]': no callback 'schedules'"),
    ({"ll_optimizer": {"class": "SGD", "lr": "0.1"}}, "'ll_optimizer': 'lr' must be a number, got '0.1'"),
    ({"ll_optimizer": {"class": "Optimizer", "lr": 0.1}}, "no differentiable rule for optimizer Optimizer"),
    ({"ll_optimizer": {"class": "SGD", "lr": 0.1, "params": []}}, "SGD has no argument 'params'"),
    ({"fit": {"max_steps": 0}}, "fit.max_steps must be at least 1, got 0"),
    ({"fit": {"max_epochs": 1.5}}, "fit.max_epochs must be an integer >= 1, got 1.5"),
    ({"fit": {"max_time": "1h"}}, "fit.max_time must be positive seconds, got '1h'"),
    ({"fit": {"max_time": -1}}, "fit.max_time must be positive seconds, got -1"),
    ({"fit": {"val_every": 2}}, "fit.val_every needs val_loader"),
    ({"fit": {"resume_from": "last"}}, "'fit.resume_from' = 'last' needs a ModelCheckpoint among the callbacks"),
    ({"fit": {"resume_from": "nowhere.npz"}}, "'fit.resume_from': there is no file 'nowhere.npz'"),
    ({"fit": {"check_second_order": 1}}, "'fit.check_second_order' must be true or false, got 1"),
    ({"logger_dir": "a_file"}, "logger_dir must be a folder, and 'a_file' is a file"),
    ({"ll_loader": None}, "'ll_loader' is missing"),
]


@pytest.mark.parametrize(("changes", "sentence"), REFUSED, ids=lambda v: str(v)[:60])
def test_both_commands_refuse_alike(task, capsys, changes, sentence, loaded_kernels):
    (task / "c.json").write_text(json.dumps({**CONFIG, **changes}))
    printed = []
    for command in ("validate", "train"):
        assert main([command, "c.json"]) == 2
        printed.append(capsys.readouterr().err)
    assert printed[0] == printed[1]
    assert sentence in printed[0]
    assert not (task / "read").exists()
    assert not (task / "runs").exists()
    assert loaded_kernels.new(pending=False) == []


def test_what_can_be_judged_by_itself_is_reported_together(task, capsys):
    together = {
        "lower_iters": 0,
        "accumulate": -1,
        "device": "gpu",
        "lower_batches": "frsh",
        "solver_config": {"CG": {"k": 0}, "FD": {"r": -1.0}},
        "callbacks": [{"class": "ModelCheckpoint", "dirpath": "m", "save_top_k": -2}, {"class": "LRSchedule"}],
        "ll_optimizer": {"class": "SGD"},
        "ul_model": "task:upperr",
        "fit": {"max_steps": 0, "val_evry": 1},
    }
    (task / "c.json").write_text(json.dumps({**CONFIG, **together}))
    assert main(["validate", "c.json"]) == 2
    printed = capsys.readouterr().err
    for sentence in (
        "lower_iters must be at least 1",
        "accumulate must be at least 1",
        "device must be one of",
        "lower_batches must be one of",
        "k of CG and NS",
        "'r'] must be positive",
        "'callbacks[0]': save_top_k",
        "'callbacks[1]': LRSchedule needs",
        "'ll_optimizer': SGD needs 'lr'",
        "has no 'upperr'. Did you mean 'upper'?",
        "fit.max_steps must be at least 1",
        "'fit' has no key 'val_evry'. Did you mean 'val_every'?",
    ):
        assert sentence in printed, sentence


def test_what_is_valid_trains(task, capsys):
    (task / "c.json").write_text(json.dumps({**CONFIG, "val_loader": "task:batches", "fit": {"max_steps": 2}}))
    assert main(["validate", "c.json"]) == 0
    assert "c.json is valid" in capsys.readouterr().out
    assert not (task / "read").exists()
    assert main(["train", "c.json"]) == 0
    assert "2 outer steps" in capsys.readouterr().out
