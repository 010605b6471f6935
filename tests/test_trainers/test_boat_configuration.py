"""Files in the form of BOAT's, of every age, trained with as they are."""

import contextlib
import json
import logging

from jboat import BilevelTrainer
from jboat.__main__ import main
from jboat.trainers.configuration.boat_files import translated
from jboat.trainers.configuration.build import ConfigurationError, read
import jittor as jt
import numpy as np
from problems import Quadratic
import pytest

LOSSES_MODULE = """
import jboat
from problems import Quadratic

problem = Quadratic()


def ul_loss(ul_feed_dict, upper_model, lower_model, weights=0.0, **kwargs):
    return problem.F(ul_feed_dict, upper_model, lambda: lower_model(**kwargs)) + weights


def ll_loss(ll_feed_dict, upper_model, lower_model, weights=0.0, **kwargs):
    return problem.f(ll_feed_dict, upper_model, lambda: lower_model(**kwargs))


def gda_loss(ll_feed_dict, ul_feed_dict, upper_model, lower_model, weights=0.0, **kwargs):
    alpha = ll_feed_dict["alpha"]
    upper = ul_loss(ul_feed_dict, upper_model, lower_model, **kwargs)
    return alpha * upper + (1 - alpha) * ll_loss(ll_feed_dict, upper_model, lower_model, **kwargs)


def models():
    return problem.models()


def lower_model():
    return problem.models()[1]


def upper_model():
    return problem.models()[0]


def batches():
    yield {}
"""

SECTIONS = {
    "DI": {"lr": 0.1},
    "GDA": {"alpha_init": 0.5, "alpha_decay": 0.9},
    "DM": {"auxiliary_v_lr": 0.1, "tau": 0.01, "p": 100, "mu0": 0.9, "eta0": 0.5, "strategy": "s3"},
    "RGT": {"truncate_iter": 0},
    "CG": {"k": 10, "tolerance": 1e-10},
    "FD": {"r": 1e-2},
}
METHODS = {
    "VSO": {"z_loop": 5, "z_lr": 0.01, "ll_l2_reg": 0.1, "ul_l2_reg": 0.01, "ul_ln_reg": 10.0, "reg_decay": True},
    "PGDO": {
        "y_hat_lr": 0.1,
        "gamma_init": 0.0,
        "gamma_max": 0.2,
        "gamma_argmax_step": 5000,
        "update_y_ahead": True,
        "penalty": "gradient",
    },
    "VFO": {"eta": 0.5, "u1": 0.1, "y_hat_lr": 0.1},
    "MESO": {"eta": 0.001, "gamma_1": 0.01, "c0": 0.2, "y_hat_lr": 0.1},
}
OLDER_NAMES = {"VSO": "VSM", "PGDO": "PGDM", "VFO": "VFM", "MESO": "MESM"}
PRESENT = {
    "fo_op": None,
    "gm_op": ["NGD"],
    "na_op": ["RAD"],
    "return_grad": False,
    "lower_iters": 4,
    "device": "cpu",
    "accumulate_grad": False,
    "copy_last_param": True,
    "fo_ol_batch_input": False,
    "loss_log_path": "loss_log.json",
    **SECTIONS,
    **METHODS,
}
BEFORE = {**{k: v for k, v in PRESENT.items() if k != "fo_ol_batch_input"}, "fogm_batch_input": False, "cuda": False}
OLDEST = {
    "fo_gm": None,
    "dynamic_op": ["NGD"],
    "hyper_op": ["RAD"],
    "return_grad": False,
    "lower_iters": 4,
    "cuda": False,
    "accumulate_grad": False,
    **SECTIONS,
    **{OLDER_NAMES[name]: section for name, section in METHODS.items()},
}
FORMS = {"present": PRESENT, "before": BEFORE, "oldest": OLDEST}


def losses(module="configs.loss_func_reg", weights=0.0):
    names = {"lower_level_loss": "ll_loss", "upper_level_loss": "ul_loss", "gda_loss": "gda_loss"}
    return {key: {"function": f"{module}.{name}", "params": {"weights": weights}} for key, name in names.items()}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """BOAT's folder ``configs`` with the functions, in the working directory."""
    monkeypatch.chdir(tmp_path)
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / "loss_func_reg.py").write_text(LOSSES_MODULE)
    for name in ("configs", "configs.loss_func_reg"):
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    return configs


def write(folder, name, config, loss_config=None):
    (folder / f"boat_config{name}.json").write_text(json.dumps(config))
    (folder / f"loss_config{name}.json").write_text(json.dumps(loss_config or losses()))


def objects(lr=0.1, ul_lr=0.05):
    ul_model, ll_model = Quadratic().models()
    return {
        "ll_model": ll_model,
        "ul_model": ul_model,
        "ll_optimizer": jt.optim.SGD(list(ll_model.parameters()), lr),
        "ul_optimizer": jt.optim.SGD(list(ul_model.parameters()), ul_lr),
    }


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("na_op", [["RAD"], ["FD"], ["CG", "PTT"]], ids=str)
def test_a_file_of_any_age_is_trained_with(folder, form, na_op):
    problem = Quadratic()
    key = "hyper_op" if form == "oldest" else "na_op"
    write(folder, "_reg", {**FORMS[form], key: na_op})
    trainer = BilevelTrainer.from_config(folder, **objects())
    history = trainer.fit({}, {}, max_steps=1, val_loader={})
    chain = ("PTT", "CG") if "PTT" in na_op else tuple(na_op)
    exact, loss, k_star, _ = problem.reference(chain, K=4, lr=0.1, k=10)
    assert trainer.na_op == chain
    assert trainer.device == "cpu"
    np.testing.assert_allclose(trainer.ul_var[0].numpy(), problem.x0 - 0.05 * exact, rtol=1e-4, atol=1e-5)
    assert history["ul_loss"][0] == pytest.approx(loss, rel=1e-5)
    assert 1 <= k_star <= 4


def test_gda_di_and_the_weighted_loss_of_the_file(folder):
    problem = Quadratic()
    write(folder, "_reg", {**PRESENT, "gm_op": ["NGD", "DI", "GDA"], "na_op": ["RAD"]})
    trainer = BilevelTrainer.from_config(folder, **objects())
    assert trainer.gm_op == ("GDA", "DI", "NGD")
    alphas = 0.5 * 0.9 ** np.arange(4)
    exact, _, _, by_y0 = problem.reference(("RAD",), K=4, lr=0.1, alphas=alphas)
    trainer.fit({}, {}, max_steps=1)
    np.testing.assert_allclose(trainer.ul_var[0].numpy(), problem.x0 - 0.05 * exact, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(trainer.initialization[0].numpy(), problem.y0 - 0.1 * by_y0, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("method", list(METHODS))
def test_first_order_methods_of_the_file_train(folder, form, method):
    key, name = ("fo_gm", OLDER_NAMES[method]) if form == "oldest" else ("fo_op", method)
    chains = {k: None for k in ("gm_op", "na_op", "dynamic_op", "hyper_op") if k in FORMS[form]}
    write(folder, "_reg", {**FORMS[form], **chains, key: name})
    trainer = BilevelTrainer.from_config(folder, **objects(lr=1e-4))  # the file's barrier is steep
    assert trainer.fo_op == method
    history = trainer.fit({}, {}, max_steps=2)
    assert np.isfinite(history["ul_loss"]).all()
    assert set(trainer.solver_config) == {method}


def test_a_penalty_that_starts_at_zero_moves_along_the_upper_objective_alone(folder):
    problem = Quadratic()
    write(folder, "_reg", {**PRESENT, "fo_op": "PGDO"})
    trainer = BilevelTrainer.from_config(folder, **objects())
    history = trainer.fit({}, {}, max_steps=2)
    assert history["pgdo_gamma"] == [0.0, pytest.approx(0.2 / 5000)]
    trainer = BilevelTrainer.from_config(folder, **objects())
    trainer.fit({}, {}, max_steps=1)
    exact = problem.x0 - 0.05 * problem.upper_by_x(problem.y0, problem.x0)
    np.testing.assert_allclose(trainer.ul_var[0].numpy(), exact, rtol=1e-5, atol=1e-6)
    exact = problem.y0 - 0.1 * problem.upper_by_y(problem.y0, problem.x0)
    np.testing.assert_allclose(trainer.ll_var[0].numpy(), exact, rtol=1e-5, atol=1e-6)


def test_the_oldest_names_are_noted_once_each(folder, caplog):
    write(folder, "_reg", {**OLDEST, "fo_gm": "VFM", "dynamic_op": None, "hyper_op": None})
    with caplog.at_level(logging.WARNING):
        BilevelTrainer.from_config(folder, **objects())
    notes = [record.getMessage() for record in caplog.records]
    for note in (
        "fo_gm is called fo_op",
        "dynamic_op is called gm_op",
        "hyper_op is called na_op",
        "VFM is called VFO",
        "cuda = False became device = 'cpu'",
        "return_grad is ignored: use BilevelTrainer.hypergradient() for gradients",
        "VFO.eta is ignored: the step size of x is ul_optimizer's learning rate",
    ):
        assert notes.count(note) == 1, note
    assert len(set(notes)) == len(notes)


@pytest.mark.parametrize(
    ("keys", "device"),
    [
        ({"device": "cpu"}, "cpu"),
        ({"device": "cuda"}, "auto"),
        ({"device": "cuda:0"}, "auto"),
        ({"cuda": True}, "auto"),
        ({"cuda": False}, "cpu"),
        ({"cuda": True, "device": "cpu"}, "cpu"),
        ({}, None),
    ],
    ids=str,
)
def test_the_device_of_a_file(keys, device):
    config = {k: v for k, v in PRESENT.items() if k != "device"}
    assert translated({**config, **keys})[0].get("device") == device


def test_a_device_that_is_none_is_refused(folder):
    write(folder, "_reg", {**PRESENT, "device": "gpu"})
    with pytest.raises(ConfigurationError, match="device must be one of 'auto', 'cpu', 'cuda', got 'gpu'"):
        BilevelTrainer.from_config(folder, **objects())


def test_operators_in_lower_case_and_a_file_that_names_none(folder, caplog):
    write(folder, "_reg", {**PRESENT, "gm_op": ["ngd"], "na_op": ["cg"]})
    assert BilevelTrainer.from_config(folder, **objects()).na_op == ("CG",)
    write(folder, "_reg", {**PRESENT, "gm_op": None, "na_op": None})
    with caplog.at_level(logging.WARNING):
        assert BilevelTrainer.from_config(folder, **objects()).na_op == ("RAD",)
    assert "gm_op, na_op and fo_op name no operator: NGD and RAD are taken" in caplog.text


def test_copy_last_param_means_nothing_where_there_is_no_loop(folder):
    write(folder, "_reg", {**PRESENT, "fo_op": "VFO", "copy_last_param": False})
    assert BilevelTrainer.from_config(folder, **objects()).warm_start
    write(folder, "_reg", {**PRESENT, "copy_last_param": False})
    assert not BilevelTrainer.from_config(folder, **objects()).warm_start


def test_a_weighted_loss_that_is_not_used_need_not_exist(folder):
    missing = {**losses(), "gda_loss": {"function": "configs.loss_func_reg.no_such_loss", "params": {}}}
    write(folder, "_reg", PRESENT, missing)
    BilevelTrainer.from_config(folder, **objects())
    write(folder, "_reg", {**PRESENT, "gm_op": ["GDA", "NGD"]}, missing)
    with pytest.raises(ConfigurationError, match="no_such_loss"):
        BilevelTrainer.from_config(folder, **objects())


def test_params_of_a_loss_are_bound(folder):
    write(folder, "_reg", PRESENT, losses(weights=3.0))
    loss = BilevelTrainer.from_config(folder, **objects()).hypergradient({}, {}).upper_loss
    assert loss == pytest.approx(Quadratic().reference(("RAD",), K=4, lr=0.1)[1] + 3.0, rel=1e-5)


def test_pairs_of_files_and_of_dicts(folder, capsys):
    write(folder, "_reg", PRESENT)
    write(folder, "_other", {**PRESENT, "lower_iters": 3})
    pair = [folder / "boat_config_reg.json", folder / "loss_config_reg.json"]
    assert BilevelTrainer.from_config(pair, **objects()).lower_iters == 4
    assert BilevelTrainer.from_config((PRESENT, losses()), **objects()).lower_iters == 4
    assert BilevelTrainer.from_config((pair[0], losses()), **objects()).lower_iters == 4

    parts = {
        "ll_model": "configs.loss_func_reg:lower_model",
        "ul_model": "configs.loss_func_reg:upper_model",
        "ll_optimizer": '{"class": "SGD", "lr": 0.1}',
        "ul_optimizer": '{"class": "SGD", "lr": 0.1}',
        "ll_loader": "configs.loss_func_reg:batches",
        "ul_loader": "configs.loss_func_reg:batches",
        "fit.max_steps": "2",
    }
    settings = [word for key, value in parts.items() for word in ("--set", f"{key}={value}")]
    assert main(["train", *map(str, pair), *settings]) == 0
    out = capsys.readouterr()
    assert "2 outer steps" in out.out
    assert "note: copy_last_param = True became warm_start" in out.err
    with pytest.raises(ConfigurationError, match="two files or dicts are BOAT's"):
        read(({"lower_iters": 3}, {"na_op": ["RAD"]}))
    for wrong in ([pair[0]], [*pair, pair[0]], 5, None, [1, 2]):
        with pytest.raises(ConfigurationError, match="a configuration is a file, a folder, a dict, or a pair"):
            read(wrong)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"looked for boat_config\.json, or one boat_config_NAME\.json, found no \.json file"),
        (["config.json"], r"looked for boat_config\.json.*found config\.json"),
        (["boat_config_a.json", "boat_config_b.json"], r"found several: boat_config_a\.json, boat_config_b\.json"),
        (
            ["boat_config_a.json", "loss_config_b.json"],
            r"boat_config_a\.json goes with loss_config_a\.json, which is not there; found loss_config_b\.json",
        ),
    ],
    ids=str,
)
def test_a_folder_says_which_names_were_looked_for(tmp_path, names, message):
    (tmp_path / "files").mkdir()
    for name in names:
        (tmp_path / "files" / name).write_text("{}")
    with pytest.raises(ConfigurationError, match=message):
        read(tmp_path / "files")


def test_a_folder_takes_the_plain_names_first_and_can_do_without_losses(folder):
    write(folder, "", {**PRESENT, "lower_iters": 2})
    write(folder, "_reg", PRESENT)
    assert read(folder)[0]["lower_iters"] == 2
    (folder / "loss_config.json").unlink()
    (folder / "loss_config_reg.json").unlink()
    assert "ll_objective" not in read(folder)[0]


@pytest.mark.parametrize("value", [5, True, "x", [1], {"a": 1}, [["NGD"]]], ids=str)
@pytest.mark.parametrize("key", [*PRESENT, "dynamic_op", "fo_gm", "cuda", "lower_level_loss", "lower_level_var"])
def test_wrong_kinds_in_a_file_of_boat_are_errors_of_the_configuration(key, value):
    with contextlib.suppress(ConfigurationError):
        BilevelTrainer.from_config(({**PRESENT, key: value}, losses()), **objects())
