"""Running statistics advance once a training step, whatever the method, and in no trial."""

from jboat.callbacks import Callback, HypergradientCheck, LambdaCallback, NaNGuard
import jittor as jt
from jittor import nn
import numpy as np
import pytest
import small_trainers

K, STEPS, MOMENTUM = 2, 3, 0.1
_RNG = np.random.default_rng(0)
TRAIN = _RNG.normal(size=(12, 2)).astype("float32") + np.array([3.0, -2.0], "float32")
VALID = _RNG.normal(size=(12, 2)).astype("float32") + np.array([-5.0, 4.0], "float32")


class Normalised(jt.Module):
    """A linear map of normalised inputs."""

    def __init__(self):
        self.norm, self.weight = nn.BatchNorm(2), jt.ones((2, 1))

    def execute(self, x):
        return jt.matmul(self.norm(x), self.weight)


def f_with_upper(batch, ul_model, ll_model):
    gap = ll_model(batch["x"]) - 0.5 * ul_model(batch["x"])
    return (gap * gap).mean()


def f_without(batch, ul_model, ll_model):
    gap = ll_model(batch["x"]) - 0.5 * ul_model.weight.sum()
    return (gap * gap).mean()


def make(*callbacks, f=f_with_upper, F=f_with_upper, **kwargs):
    def sgd(params):
        return jt.optim.SGD([p for p in params if not p.is_stop_grad()], 0.01)

    return small_trainers.make(
        *callbacks,
        ll_model=Normalised(),
        ul_model=Normalised(),
        ll_objective=f,
        ul_objective=F,
        ll_optimizer=sgd,
        ul_optimizer=sgd,
        **{"lower_iters": K, **kwargs},
    )


def after(data, advances):
    """BatchNorm's running mean after so many batches of the same data, from zero."""
    return data.mean(0, dtype=np.float64) * (1.0 - (1.0 - MOMENTUM) ** advances)


def assert_advanced(trainer, lower, upper, upper_data=VALID):
    np.testing.assert_allclose(trainer.ll_model.norm.running_mean.numpy(), after(TRAIN, lower), rtol=1e-5)
    np.testing.assert_allclose(trainer.ul_model.norm.running_mean.numpy(), after(upper_data, upper), rtol=1e-5)


CHAINS = {
    "RAD": {},
    "RAD, replayed": {"solver_config": {"RAD": {"remat_every": 1}}},
    "GDA+PTT+RAD": {"gm_op": ["GDA", "NGD"], "na_op": ["PTT", "RAD"]},
    "DI+RGT+CG": {"gm_op": ["DI", "NGD"], "na_op": ["RGT", "CG"], "solver_config": {"RGT": {"truncate_iter": 1}}},
    "NS": {"na_op": ["NS"]},
    "FD": {"na_op": ["FD"]},
    "IGA": {"na_op": ["IGA"]},
}
ONE_STEP = {
    "DM": {"gm_op": ["DM"]},
    "GDA+DM, CG": {"gm_op": ["GDA", "DM"], "na_op": ["CG"]},
    **{name: {"fo_op": name} for name in ("ALTO", "GAFFO", "MESO", "PGDO", "VFO", "VSO")},
    **{name: {"sl_op": name} for name in ("SOBA", "SABA", "SRBA", "SUSTAIN", "STOCBIO", "AMIGO", "F2SA")},
    "PGDO, gradient": {"fo_op": "PGDO", "solver_config": {"PGDO": {"penalty": "gradient"}}},
}


@pytest.mark.parametrize("name", [*CHAINS, *ONE_STEP])
def test_both_levels_advance_once_a_step(name):
    trainer = make(**{**CHAINS, **ONE_STEP}[name])
    trainer.fit({"x": TRAIN}, {"x": VALID}, max_steps=STEPS)
    assert_advanced(trainer, STEPS * (K if name in CHAINS else 1), STEPS)


@pytest.mark.parametrize("method", [{}, {"gm_op": ["DM"]}, {"fo_op": "MESO"}, {"fo_op": "VSO"}])
def test_an_upper_model_that_the_lower_objective_alone_runs_advances_by_its_batches(method):
    def F(batch, ul_model, ll_model):
        gap = ll_model(batch["x"]) - 1.0
        return (gap * gap).mean() + 0.01 * (ul_model.weight * ul_model.weight).sum()

    trainer = make(F=F, **method)
    trainer.fit({"x": TRAIN}, {"x": VALID}, max_steps=STEPS)
    assert_advanced(trainer, STEPS * (K if not method else 1), STEPS, upper_data=TRAIN)


@pytest.mark.parametrize("method", [{}, {"gm_op": ["DM"]}, {"fo_op": "MESO"}])
def test_an_upper_model_that_the_upper_objective_alone_runs_advances(method):
    trainer = make(f=f_without, **method)
    trainer.fit({"x": TRAIN}, {"x": VALID}, max_steps=STEPS)
    assert_advanced(trainer, STEPS * (K if not method else 1), STEPS)


class WantsLosses(Callback):
    def wants_lower_losses(self, trainer, state):
        return True


def test_no_trial_moves_them():
    def try_things(trainer, state):
        trainer.hypergradient({"x": VALID}, {"x": TRAIN})
        trainer.evaluate({"x": VALID})
        trainer.current_run.unrolled_value([v.numpy() for v in trainer.ul_var])

    callbacks = [
        LambdaCallback(on_step_end=try_things),
        HypergradientCheck(every_n_steps=1, directions=1),
        WantsLosses(),
    ]
    trainer = make(*callbacks, na_op=["PTT", "CG"])
    trainer.fit({"x": TRAIN}, {"x": VALID}, max_steps=STEPS, val_loader={"x": VALID})
    assert_advanced(trainer, STEPS * K, STEPS)


@pytest.mark.parametrize("method", [{}, {"fo_op": "MESO"}])
def test_training_and_evaluation_agree_with_both_levels_settled(method):
    """What evaluation sees is what training saw, to the momentum's rest."""

    def f(batch, ul_model, ll_model):
        gap = ll_model(batch["x"]) - batch["x"].sum(1, keepdims=True)
        return (gap * gap).mean() + (0.001 * ul_model.weight.sum() * ll_model.weight * ll_model.weight).sum()

    trainer = make(f=f, F=f, **method)
    history = trainer.fit({"x": TRAIN}, {"x": TRAIN}, max_steps=60)
    assert trainer.evaluate({"x": TRAIN})["ul_loss"] == pytest.approx(history["ul_loss"][-1], rel=0.1)


def test_a_step_that_is_left_out_or_fails_leaves_them():
    bad = TRAIN.copy()
    bad[0, 0] = np.nan
    trainer = make(NaNGuard("skip"))
    trainer.fit([{"x": TRAIN}, {"x": bad}, {"x": TRAIN}], {"x": VALID}, max_steps=3)
    assert trainer.state.step == 3
    assert_advanced(trainer, 2 * K, 2)

    class FailedError(Exception):
        pass

    def fail(trainer, state, result):
        if state.step == 1:
            raise FailedError

    trainer = make(LambdaCallback(on_before_upper_step=fail))
    with pytest.raises(FailedError):
        trainer.fit({"x": TRAIN}, {"x": VALID}, max_steps=3)
    assert_advanced(trainer, K, 1)
