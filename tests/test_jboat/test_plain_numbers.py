"""Numbers of numpy wherever a number is asked for: the same results as with Python's."""

from jboat import BilevelTrainer, functional
from jboat.callbacks import DISchedule, LRSchedule
from jboat.plain_numbers import plain
import jittor as jt
import numpy as np
from problems import Quadratic
import pytest
from small_trainers import make

KINDS = [np.float64, np.float32, np.array]


def run(kind, optimizer=jt.optim.SGD, upper=jt.optim.SGD, options=None, callbacks=(), steps=2, **kwargs):
    def numbers(values):
        return {
            name: tuple(map(kind, v)) if isinstance(v, tuple) else v if isinstance(v, bool) else kind(v)
            for name, v in values.items()
        }

    arguments = {
        jt.optim.SGD: {"momentum": 0.5, "weight_decay": 0.25, "dampening": 0.125},
        jt.optim.RMSprop: {"alpha": 0.5, "eps": 0.125},
        jt.optim.Adan: {"betas": (0.5, 0.75, 0.875), "eps": 0.125, "weight_decay": 0.25},
    }.get(optimizer, {"betas": (0.5, 0.75), "eps": 0.125, "weight_decay": 0.25})
    trainer = make(
        *callbacks,
        ll_optimizer=lambda params: optimizer(params, lr=kind(0.0625), **numbers(arguments)),
        ul_optimizer=lambda params: upper(params, lr=kind(0.0625)),
        solver_config={name: numbers(section) for name, section in (options or {}).items()},
        **kwargs,
    )
    trainer.fit({}, {}, max_steps=steps)
    assert all(isinstance(v, float) for row in trainer.history for k, v in row.items() if k not in ("step", "epoch"))
    return trainer.values()


CASES = {
    "RAD": {},
    "CG": {"na_op": ["CG"], "options": {"CG": {"tolerance": 0.125}}},
    "NS": {"na_op": ["NS"]},
    "FD": {"na_op": ["FD"], "options": {"FD": {"r": 0.125}}},
    "DI": {"gm_op": ["DI", "NGD"], "options": {"DI": {"lr": 0.125}}},
    "GDA": {"gm_op": ["GDA", "NGD"], "options": {"GDA": {"alpha_init": 0.25, "alpha_decay": 0.5}}},
    "DM": {"gm_op": ["DM"], "options": {"DM": {"tau": 0.25, "eta0": 0.5}}},
    "MESO": {"fo_op": "MESO", "options": {"MESO": {"eta": 0.125, "gamma_1": 0.5, "c0": 2.0}}},
    "GAFFO": {"fo_op": "GAFFO", "options": {"GAFFO": {"eta": 0.125, "gamma": 0.5, "y_min": -8.0, "y_max": 8.0}}},
    "PGDO": {"fo_op": "PGDO", "options": {"PGDO": {"y_hat_lr": 0.125, "gamma_init": 0.5}}},
    "VFO": {"fo_op": "VFO", "options": {"VFO": {"y_hat_lr": 0.125, "u1": 0.5}}},
    "VSO": {"fo_op": "VSO", "options": {"VSO": {"z_lr": 0.125, "ul_ln_reg": 0.5, "slack": 4.0}}},
}


@pytest.mark.parametrize("name", CASES)
def test_every_operator_takes_numpys_numbers(name):
    expected = run(float, **CASES[name])
    for kind in KINDS:
        np.testing.assert_equal(run(kind, **CASES[name]), expected)


@pytest.mark.parametrize("optimizer", [jt.optim.RMSprop, jt.optim.Adam, jt.optim.AdamW, jt.optim.Adan])
def test_every_lower_optimizer_takes_numpys_numbers(optimizer):
    np.testing.assert_equal(run(np.float64, optimizer), run(float, optimizer))


@pytest.mark.parametrize("optimizer", [jt.optim.RMSprop, jt.optim.Adam, jt.optim.AdamW, jt.optim.Adan])
def test_every_upper_optimizer_takes_numpys_numbers(optimizer):
    np.testing.assert_equal(run(np.float64, upper=optimizer), run(float, upper=optimizer))


def test_integers_and_schedules():
    cg = {"na_op": ["CG"]}
    assert plain(np.int64(3)) == 3
    assert isinstance(plain(np.int64(3)), int)
    problem = Quadratic()
    ul_model, ll_model = problem.models()
    BilevelTrainer(
        ll_model,
        ul_model,
        problem.f,
        problem.F,
        ll_optimizer=jt.optim.SGD(list(ll_model.parameters()), 0.1),
        ul_optimizer=jt.optim.SGD(list(ul_model.parameters()), 0.1),
        solver_config={"CG": {"k": np.int64(3)}, "RAD": {"remat_every": np.int32(1)}},
        **cg,
    )
    for callback in (
        lambda kind: LRSchedule(lambda step: kind(0.125), level="lower"),
        lambda kind: LRSchedule(lambda step: kind(0.125)),
        lambda kind: DISchedule(lambda step: kind(0.125)),
    ):
        chain = {"gm_op": ["DI", "NGD"]}
        got, expected = (run(float, callbacks=[callback(kind)], **chain) for kind in (np.float64, float))
        np.testing.assert_equal(got, expected)


def test_linear_algebra_takes_numpys_numbers():
    x, y = [jt.array([1.0, 2.0])], [jt.array([3.0, 4.0])]
    for scale in (np.float64(2.0), np.float32(2.0), np.array(2.0), np.array([2.0])):
        np.testing.assert_allclose(functional.axpy(scale, x, y, factor=np.float64(-1.0))[0].numpy(), [1.0, 0.0])
