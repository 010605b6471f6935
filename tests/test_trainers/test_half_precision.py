"""`precision`: refused where it is of no use, half in the models alone, losses scaled, and taken up in checkpoints.

There is no GPU here. Half precision runs on the CPU in emulation, which the trainer refuses without a variable of the
environment; `test_half_products` has what is emulated.
"""

import logging

from jboat import BilevelTrainer, autodiff, precision
from jboat.backend import cuda_driver, half_arithmetic
from jboat.backend.cuda_driver import CudaDriver
from jboat.callbacks import HypergradientCheck, LambdaCallback, NaNGuard
from jboat.loss_scale import FIRST, GOOD_STEPS, LARGEST, LossScale
from jboat.trainers import half_precision
from jboat.trainers.errors import NonFiniteError
from jboat.trainers.persistence.checkpoint import CheckpointError
import jittor as jt
import numpy as np
from problems import Classifier, Quadratic
import pytest
from small_trainers import make

PROBLEM = Classifier(hidden=5)
OPTIONS = {"CG": {"k": 4}, "FD": {"r": 1.0}}
ROUNDING = {"bf16": 2.0**-8, "fp16": 2.0**-11}


@pytest.fixture
def emulated(monkeypatch):
    monkeypatch.setenv(half_arithmetic.EMULATION, "1")


def descent(params, grads, state, step):
    return [p - 0.5 * g for p, g in zip(params, grads, strict=True)], state


def hypergradient(kind, *, problem=PROBLEM, **options):
    trainer = make(problem=problem, lower_iters=3, ll_lr=0.5, precision=kind, **options)
    found = trainer.hypergradient(*problem.batches())
    return np.concatenate([g.numpy().ravel() for g in found.gradients]).astype(np.float64)


def error(found, exact):
    return np.linalg.norm(found - exact) / np.linalg.norm(exact)


class Scaled(Classifier):
    """A classifier both of whose losses are multiplied by a factor."""

    factor = 1.0

    def f(self, batch, ul_model, ll_model):
        return Scaled.factor * Classifier.f(batch, ul_model, ll_model)

    def F(self, batch, ul_model, ll_model):
        return Scaled.factor * Classifier.F(batch, ul_model, ll_model)


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_a_cpu_is_refused_before_anything_runs(kind):
    def never(*args):
        pytest.fail("an objective was called")

    with pytest.raises(ValueError, match=rf"precision '{kind}' needs a GPU .* plain loops on a CPU, .* slower"):
        make(ll_objective=never, ul_objective=never, precision=kind)


def test_arguments():
    with pytest.raises(ValueError, match=r"precision must be one of 'fp32', 'bf16', 'fp16', got 'fp61'\. Did you mean"):
        make(precision="fp61")
    with pytest.raises(ValueError, match=r"loss_scale is for precision 'fp16' alone, got 2\.0 with precision 'fp32'"):
        make(loss_scale=2.0)
    for wrong, kind in ((0.0, ValueError), (float("inf"), ValueError), ("big", TypeError), (True, TypeError)):
        with pytest.raises(kind, match="loss_scale must be"):
            make(precision="fp16", loss_scale=wrong)


def test_models_of_float64_and_jittors_own_mixed_precision_are_refused(emulated):
    problem = Quadratic()
    ul_model, ll_model = problem.models()
    ll_model.value = ll_model.value.float64()
    with pytest.raises(ValueError, match=r"'bf16' is for models of float32, .* ll_var has variables of float64"):
        make(ll_model=ll_model, ul_model=ul_model, precision="bf16")
    with jt.flag_scope(amp_reg=2), pytest.raises(ValueError, match="Jittor's own mixed precision"):
        half_precision.checked("fp16", None, "cpu", {})


def test_a_gpu_without_bfloat16_is_refused(monkeypatch):
    monkeypatch.setattr(jt.compile_extern, "cublas_ops", None, raising=False)
    with pytest.raises(ValueError, match="needs cuBLAS"):
        half_precision.checked("bf16", None, "cuda", {})
    monkeypatch.setattr(jt.compile_extern, "cublas_ops", "there", raising=False)
    monkeypatch.setattr(cuda_driver, "find", lambda: CudaDriver((12, 4), 1, (75,)))
    with pytest.raises(ValueError, match=r"compute capability 8\.0 or later, and one that can be seen has 7\.5"):
        half_precision.checked("bf16", None, "cuda", {})
    assert half_precision.checked("fp16", None, "cuda", {}).loss_scale.value == FIRST
    monkeypatch.setattr(cuda_driver, "find", lambda: CudaDriver((12, 4), 1, (90,)))
    assert half_precision.checked("bf16", None, "cuda", {}).loss_scale is None


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
@pytest.mark.parametrize("na_op", ["RAD", "CG", "FD"])
def test_hypergradients_are_off_by_roundings(kind, na_op, emulated):
    if na_op == "RAD":
        exact = PROBLEM.unrolled_gradient(3, descent)
    else:
        exact = hypergradient("fp32", na_op=[na_op], solver_config=OPTIONS)
    found = error(hypergradient(kind, na_op=[na_op], solver_config=OPTIONS), exact)
    assert ROUNDING[kind] / 30 < found < 5 * ROUNDING[kind]


def gap():
    """Of a product from what it is where its factors are of half: 0 there, else 2**-12."""
    return float(((jt.ones((2, 2)) * (1 + 2.0**-13)) @ jt.ones((2, 2))).numpy()[0, 0]) - 2.0


def test_only_what_objectives_and_metrics_multiply_is_half(emulated):
    in_objective, in_hooks = [], []

    def f(batch, ul_model, ll_model):
        in_objective.append(gap())
        return PROBLEM.f(batch, ul_model, ll_model)

    flags = {name: getattr(jt.flags, name) for name in ("use_tensorcore", "amp_reg", "use_cuda")}
    note = LambdaCallback(on_step_end=lambda trainer, state: in_hooks.append(gap()))
    metrics = {"gap": lambda batch, ul_model, ll_model: gap()}
    trainer = make(note, problem=PROBLEM, ll_objective=f, metrics=metrics, precision="bf16")
    lower, upper = PROBLEM.batches()
    trainer.fit(lower, upper, max_steps=1, val_loader=[upper], check_second_order=False)
    assert set(in_objective[-2:]) == {0.0}
    assert in_hooks == [2.0**-12]
    assert trainer.history.rows[-1]["val_gap"] == 0.0
    assert all(v.dtype == "float32" for v in (*trainer.ll_var, *trainer.ul_var))
    assert {name: getattr(jt.flags, name) for name in flags} == flags
    assert gap() == 2.0**-12


def test_gradients_too_small_for_float16_come_back_by_the_scale(emulated, monkeypatch):
    problem = Scaled(hidden=5)
    monkeypatch.setattr(Scaled, "factor", 2.0**-20)
    exact = hypergradient("fp32", problem=problem)
    with_scale = error(hypergradient("fp16", problem=problem, loss_scale=2.0**24), exact)
    assert with_scale < 5 * ROUNDING["fp16"]
    assert error(hypergradient("fp16", problem=problem, loss_scale=1.0), exact) > 0.5


def overflowing(*callbacks, **options):
    """A trainer whose gradients overflow until the scale has been halved to 2**11."""
    problem = Scaled(hidden=5)
    trainer = make(*callbacks, problem=problem, ll_lr=0.5 / 2.0**8, precision="fp16", **options)
    return trainer, problem.batches()


def test_a_step_that_overflows_is_left_out_and_the_scale_halved(emulated, monkeypatch, caplog):
    monkeypatch.setattr(Scaled, "factor", 2.0**8)
    seen = []

    def keep(trainer, state):
        seen.append((state.metrics["loss_scale"], state.step_left_out, trainer.values()))

    guard = NaNGuard("stop")
    trainer, (lower, upper) = overflowing(guard, LambdaCallback(on_step_end=keep))
    before = trainer.values()
    with caplog.at_level(logging.INFO, logger="jboat"):
        trainer.fit(lower, upper, max_steps=12, check_second_order=False)
    left_out = [i for i, step in enumerate(seen) if step[1]]
    assert left_out == list(range(len(left_out)))
    assert 0 < len(left_out) < 12
    assert [step[0] for step in seen[: len(left_out) + 1]] == [FIRST / 2.0**i for i in range(len(left_out) + 1)]
    for i in left_out:
        assert all((value == before[name]).all() for name, value in seen[i][2].items())
    assert any((value != before[name]).any() for name, value in seen[-1][2].items())
    assert guard.skipped == 0
    assert trainer.current_run.loss_scale.good_steps == 12 - len(left_out)
    assert f"loss_scale is {FIRST / 2:g} now, after {FIRST:g}" in caplog.text


@pytest.mark.parametrize(
    "place", [{"sl_op": "SOBA"}, *({"gm_op": ["DM", "NGD"], "na_op": [operator]} for operator in ("RAD", "CG"))]
)
def test_a_step_is_left_out_where_what_the_method_keeps_overflows_alone(place, emulated):
    """The gradient is small, and the Hessian times the scale is not."""
    problem = Quadratic(same_dims=True)
    steep = jt.array(1.5 * np.eye(len(problem.y0), dtype="float32"))

    def f(batch, ul_model, ll_model):
        gap = jt.matmul(steep, ll_model().reshape(-1, 1)).reshape(-1) - ul_model()
        return 0.5 * (gap * gap).sum()

    def directions(kind):
        found, moving = [], []

        def keep(trainer, state, result):
            moving.append(not result.skip)
            if not result.skip:
                found.append(result.gradients[0].numpy())

        options = {"ll_lr": 0.01, "ul_lr": 0.01, "ll_objective": f, "precision": kind, **place}
        trainer = make(LambdaCallback(on_before_upper_step=keep), problem=problem, **options)
        for model, values in ((trainer.ll_model, 1e-3), (trainer.ul_model, 1e-2)):
            model.value.update(jt.full_like(model.value, values))
        trainer.fit({}, {}, max_steps=7, check_second_order=False)
        return found, moving

    exact, _ = directions("fp32")
    found, moving = directions("fp16")
    assert 0 < moving.count(False) < 4
    for mine, own in zip(found, exact, strict=False):
        np.testing.assert_allclose(mine, own, rtol=0.01, atol=1e-6)


def test_a_hypergradient_by_itself_finds_a_scale_and_keeps_none(emulated, monkeypatch):
    monkeypatch.setattr(Scaled, "factor", 2.0**8)
    trainer, batches = overflowing()
    found = trainer.hypergradient(*batches)
    assert np.isfinite(found.norm)
    assert trainer.current_run.loss_scale.value == FIRST


def test_what_no_scale_helps_is_an_error(emulated, monkeypatch):
    monkeypatch.setattr(Scaled, "factor", 2.0**8)
    trainer, (lower, upper) = overflowing(loss_scale=FIRST)
    with pytest.raises(NonFiniteError):
        trainer.fit(lower, upper, max_steps=1, check_second_order=False)
    monkeypatch.setattr(Scaled, "factor", float("inf"))
    trainer, (lower, upper) = overflowing()
    with pytest.raises(NonFiniteError):
        trainer.fit(lower, upper, max_steps=30, check_second_order=False)
    assert (trainer.state.step, trainer.current_run.loss_scale.value) == (15, 1.0)


def test_the_scale_grows_after_many_good_steps():
    scale = LossScale()
    for _ in range(GOOD_STEPS - 1):
        scale.count_good_step()
    assert scale.value == FIRST
    scale.count_good_step()
    assert (scale.value, scale.good_steps) == (2 * FIRST, 0)
    scale.restore(LARGEST, GOOD_STEPS - 1)
    scale.count_good_step()
    assert scale.value == LARGEST
    fixed = LossScale(3.0)
    for _ in range(GOOD_STEPS):
        fixed.count_good_step()
    assert (fixed.value, fixed.may_be_halved) == (3.0, False)


def test_a_resumed_run_goes_on_to_the_bit(emulated, monkeypatch, tmp_path):
    monkeypatch.setattr(Scaled, "factor", 2.0**8)
    whole, (lower, upper) = overflowing()
    whole.fit(lower, upper, max_steps=8, check_second_order=False)
    first, _ = overflowing()
    first.fit(lower, upper, max_steps=2, check_second_order=False)
    first.save_checkpoint(tmp_path / "a.npz")
    second, _ = overflowing()
    second.fit(lower, upper, max_steps=8, resume_from=tmp_path / "a.npz", check_second_order=False)
    assert second.current_run.loss_scale.state() == whole.current_run.loss_scale.state()
    assert [row["loss_scale"] for row in second.history] == [row["loss_scale"] for row in whole.history]
    assert all((value == whole.values()[name]).all() for name, value in second.values().items())

    others = make(problem=Scaled(hidden=5), ll_lr=0.5 / 2.0**8)
    with pytest.raises(CheckpointError, match="precision was 'fp16' and is 'absent'"):
        others.load_checkpoint(tmp_path / "a.npz")
    others.load_checkpoint(tmp_path / "a.npz", what="models")


def test_a_checkpoint_with_a_scale_that_cannot_be_is_refused(emulated, tmp_path, monkeypatch):
    trainer, _ = overflowing()
    for wrong in ({"value": -1.0, "good_steps": 0}, {"value": 2.0, "good_steps": "x"}, {"value": 1.0}, None):
        monkeypatch.setattr(trainer.current_run.loss_scale, "state", lambda wrong=wrong: wrong)
        trainer.save_checkpoint(tmp_path / "a.npz")
        with pytest.raises(CheckpointError, match="loss_scale"):
            trainer.load_checkpoint(tmp_path / "a.npz")
    assert trainer.current_run.loss_scale.value == FIRST


def test_checks_compare_with_float32(emulated):
    used = []

    def f(batch, ul_model, ll_model):
        used.append(precision.loss_scale())
        return PROBLEM.f(batch, ul_model, ll_model)

    trainer = make(HypergradientCheck(1), problem=PROBLEM, ll_objective=f, lower_iters=3, ll_lr=0.5, precision="fp16")
    lower, upper = PROBLEM.batches()
    trainer.fit(lower, upper, max_steps=1)  # second derivatives are looked at too
    assert {None, FIRST} == set(used)
    (row,) = trainer.history
    assert row["hypergradient_difference_error"] < 5e-3
    assert row["hypergradient_verdict"] == 1.0


def test_it_is_said_where_a_trainer_is_described(emulated):
    trainer = make(precision="bf16")
    assert "products and convolutions in bf16" in str(trainer.summary())
    assert trainer.configuration()["precision"] == "bf16"
    assert "precision" not in make().configuration()
    assert "fp32" not in str(make().summary())


def test_a_file_may_say_it(emulated):
    problem = Quadratic()
    ul_model, ll_model = problem.models()
    config = {"precision": "fp16", "loss_scale": 1024, "ll_optimizer": {"class": "SGD", "lr": 0.1}}
    config["ul_optimizer"] = config["ll_optimizer"]
    objects = {"ll_model": ll_model, "ul_model": ul_model, "ll_objective": problem.f, "ul_objective": problem.F}
    assert BilevelTrainer.from_config(config, **objects).current_run.loss_scale.value == 1024.0


def test_directions_of_zero_stay_zero_at_any_scale():
    x = jt.array(np.ones(3, "float32"))
    with precision.used(precision.HalfPrecision("fp16", LossScale(1e30))):
        assert autodiff.vjp([x * x], [x], [jt.zeros(3)])[0].numpy().tolist() == [0.0] * 3
