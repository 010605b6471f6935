"""DM: every chain with it against its formulas in float64, and where it converges to."""

from functools import partial
import itertools

from exact_steps import dual_multiplier
from jboat import registry
from jboat.callbacks import ModelCheckpoint
import jittor as jt
import numpy as np
from problems import DIM_X, Quadratic
import pytest
import small_trainers

LR_Y, LR_X = 0.1, 0.4
OPTIONS = {"tau": 0.3, "p": 2.0, "mu0": 0.6, "eta0": 0.8}


def make(gm_op, na_op, *, problem=None, callbacks=(), ll_lr=LR_Y, ul_lr=LR_X, ul_optimizer=None, **options):
    return small_trainers.make(
        *callbacks,
        problem=problem,
        ll_lr=ll_lr,
        ul_lr=ul_lr,
        ul_optimizer=ul_optimizer,
        gm_op=gm_op,
        na_op=na_op,
        solver_config={"DM": {**OPTIONS, **options}},
    )


CHAINS = [
    (gm_op, na_op, strategy)
    for gm_op, na_op in registry.valid_chains()
    if "DM" in gm_op
    for strategy in (("s1", "s2", "s3") if "GDA" in gm_op else ("s1",))
]


def test_every_chain_of_the_contract_is_run():
    assert {(gm, na) for gm, na, _ in CHAINS} == set(
        itertools.product(
            [("DM",), ("NGD", "DM"), ("GDA", "DM"), ("GDA", "NGD", "DM")],
            [("RAD",), ("CG",)],
        )
    )


@pytest.mark.parametrize(("gm_op", "na_op", "strategy"), CHAINS, ids=str)
def test_three_steps_equal_the_formulas(gm_op, na_op, strategy):
    problem = Quadratic()
    trainer = make(gm_op, na_op, problem=problem, strategy=strategy)
    trainer.fit({}, {}, max_steps=3)
    x, y, v = dual_multiplier(problem, 3, gm_op, na_op, strategy, lr_y=LR_Y, lr_x=LR_X)
    np.testing.assert_allclose(trainer.ul_var[0].numpy(), x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(trainer.ll_var[0].numpy(), y, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(trainer.auxiliary["multiplier"][0].numpy(), v, rtol=1e-3, atol=1e-5)
    assert trainer.ul_optimizer.lr == LR_X
    assert "lr" not in trainer.ul_optimizer.param_groups[0]


def test_the_first_multiplier_step_with_a_rate_of_its_own():
    problem = Quadratic()
    trainer = make(["DM"], ["RAD"], problem=problem, auxiliary_v_lr=0.3)
    trainer.fit({}, {}, max_steps=1)
    expected = 0.3 * problem.upper_by_y(problem.y0, problem.x0)
    np.testing.assert_allclose(trainer.auxiliary["multiplier"][0].numpy(), expected, rtol=1e-5)


def test_the_upper_optimizers_type_is_honoured():
    trainer = make(["DM"], ["RAD"], ul_optimizer=partial(jt.optim.Adam, lr=LR_X))
    x = trainer.ul_var[0].numpy().copy()
    gradient = trainer.hypergradient({}, {}).gradients[0].numpy()
    trainer.fit({}, {}, max_steps=1)
    moved = x - LR_X * LR_Y * np.sign(gradient)  # Adam's first step is the sign
    np.testing.assert_allclose(trainer.ul_var[0].numpy(), moved, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("na_op", ["RAD", "CG"])
def test_it_finds_the_bilevel_optimum(na_op):
    problem = Quadratic(coupling=0.3)
    problem.rho = 1.0
    trainer = make(["DM"], [na_op], problem=problem, ll_lr=0.3, ul_lr=0.3, tau=0.0, eta0=1.0)
    trainer.fit({}, {}, max_steps=400)

    def gradient(x):
        y = np.linalg.solve(problem.A, problem.B @ x + problem.c)
        through = np.linalg.solve(problem.A, problem.B).T @ problem.upper_by_y(y, x)
        return problem.upper_by_x(y, x) + through

    offset = gradient(np.zeros(DIM_X))
    best = np.linalg.solve(np.stack([gradient(e) - offset for e in np.eye(DIM_X)], 1), -offset)
    np.testing.assert_allclose(trainer.ul_var[0].numpy(), best, atol=1e-3)


def test_a_resumed_run_is_bit_identical(tmp_path):
    def build(folder):
        return make(["GDA", "DM"], ["CG"], callbacks=[ModelCheckpoint(folder, every_n_steps=3)])

    whole = build(tmp_path / "whole")
    whole.fit({}, {}, max_steps=8)
    build(tmp_path / "parts").fit({}, {}, max_steps=4)
    parts = build(tmp_path / "parts")
    parts.fit({}, {}, max_steps=8, resume_from="last")
    np.testing.assert_equal(parts.values(), whole.values())
    assert parts.history["dm_residual"] == whole.history["dm_residual"]


@pytest.mark.parametrize(
    ("gm_op", "na_op", "options", "message"),
    [
        (["DM"], ["NS"], {}, "DM needs na_op RAD or CG"),
        (["DM"], ["PTT", "RAD"], {}, "DM needs na_op RAD or CG"),
        (["DM", "DI"], ["RAD"], {}, "is not a chain"),
        (["DM"], ["RAD"], {"strategy": "s2"}, "must be 's1' without GDA in gm_op, got 's2'"),
        (["GDA", "DM"], ["RAD"], {"strategy": "s4"}, "must be 's1', 's2' or 's3', got 's4'"),
        (["DM"], ["RAD"], {"mu0": 1.0}, r"mu0'\] must lie strictly in \(0, 1\), got 1\.0"),
        (["DM"], ["RAD"], {"p": 0}, r"p'\] must be positive, got 0"),
    ],
)
def test_bad_input(gm_op, na_op, options, message):
    with pytest.raises(ValueError, match=message):
        make(gm_op, na_op, **options)
