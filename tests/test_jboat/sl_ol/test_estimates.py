"""What the estimates of single-loop methods are on average over all batches, and where they stop varying."""

import itertools

from jboat import BilevelTrainer
from jboat.sl_ol.batches import Counts, Places
from jboat.sl_ol.estimators import SARAH, MovingAverage, Saga, Storm
from jboat.trainers.outer_step.method import Events
import jittor as jt
import numpy as np
from problems import DIM_X, NoisyQuadratic
import pytest

LL_LR, UL_LR = 0.2, 0.1


def make(problem, method, options=None, ul_lr=UL_LR, lower_iters=1):
    ul_model, ll_model = problem.models()
    return BilevelTrainer(
        ll_model,
        ul_model,
        problem.f,
        problem.F,
        ll_optimizer=jt.optim.SGD(list(ll_model.parameters()), LL_LR),
        ul_optimizer=jt.optim.SGD(list(ul_model.parameters()), ul_lr),
        sl_op=method,
        lower_iters=lower_iters,
        solver_config={method: options} if options else None,
    )


def values(trainer, v=None):
    kept = trainer.auxiliary.get("v") if v is None else [v]
    return [v.numpy().astype(float) for v in (trainer.ul_var[0], trainer.ll_var[0], kept[0])]


def all_directions(trainer, problem):
    """The directions of y, v and x for every pair of batches that the next step may take, in float64."""
    lower, upper = problem.loaders()
    of, run = Counts(len(lower), len(upper)), trainer.current_run
    _, y, v = values(trainer)
    found = []
    for (i, ll_batch), (j, ul_batch) in itertools.product(enumerate(lower), enumerate(upper)):
        pair = [[{name: jt.array(array) for name, array in batch.items()}] for batch in (ll_batch, ul_batch)]
        step = run.step([tuple(pair)], Events(), places=Places(Counts(i, j), of))
        y_new, v_new = step.ll_parameters[0].numpy().astype(float), step.auxiliary["v"][0].numpy().astype(float)
        found.append([(y - y_new) / LL_LR, (v - v_new) / LL_LR, step.gradients[0].numpy().astype(float)])
    return [np.stack(of_one) for of_one in zip(*found, strict=True)]


@pytest.mark.parametrize(("method", "steps"), [("SOBA", 3), ("SABA", 0), ("SABA", 3), ("SABA", 10)])
def test_the_mean_over_all_batches_is_the_full_direction(method, steps):
    problem = NoisyQuadratic()
    trainer = make(problem, method)
    if steps:
        trainer.fit(*problem.loaders(), max_steps=steps)
    else:
        trainer.current_run.auxiliary = {"v": [jt.ones(len(problem.y0))]}
    full = problem.directions(*values(trainer))
    for found, exact in zip(all_directions(trainer, problem), full, strict=True):
        np.testing.assert_allclose(found.mean(0), exact, rtol=1e-6, atol=2e-6)
        assert found.std(0).max() > 1e-3


@pytest.mark.parametrize(
    ("method", "options", "etas"),
    [
        ("MRBO", {"eta": 0.3}, (0.3, 0.3, 0.3)),
        ("SUSTAIN", {"eta_y": 0.3, "eta_x": 0.6}, (0.3, 1.0, 0.6)),
        ("SRBA", {"period": 100}, (0.0, 0.0, 0.0)),
    ],
)
def test_the_mean_of_recursive_estimates_moves_with_the_full_direction(method, options, etas):
    problem = NoisyQuadratic()
    trainer = make(problem, method, options)
    trainer.fit(*problem.loaders(), max_steps=3)
    kept = {name: value[0].numpy().astype(float) for name, value in trainer.auxiliary.items()}
    now = problem.directions(*values(trainer))
    before = problem.directions(kept["x_before"], kept["y_before"], kept["v_before"])
    last = [kept.get(name, 0.0) for name in ("d_y", "d_v", "d_x")]
    for found, a, b, d, eta in zip(all_directions(trainer, problem), now, before, last, etas, strict=True):
        np.testing.assert_allclose(found.mean(0), a + (1 - eta) * (d - b), rtol=1e-6, atol=3e-6)


def test_a_full_direction_of_srba_is_that_of_all_batches():
    problem = NoisyQuadratic()
    trainer = make(problem, "SRBA", {"period": 3})
    trainer.fit(*problem.loaders(), max_steps=3)
    x, y, v = values(trainer)
    trainer.fit(*problem.loaders(), max_steps=1)
    kept = [trainer.auxiliary[name][0].numpy() for name in ("d_y", "d_v", "d_x")]
    for found, exact in zip(kept, problem.directions(x, y, v), strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-6, atol=2e-6)


def test_variance_vanishes_with_saba_and_srba_but_not_with_soba():
    problem = NoisyQuadratic()
    spread = {}
    for method in ("SOBA", "SABA", "SRBA"):
        trainer = make(problem, method)
        trainer.fit(*problem.loaders(), max_steps=601)  # so that SRBA's next step takes no full direction
        directions = all_directions(trainer, problem)
        spread[method] = max(float(d.std(0).max()) for d in directions)
    assert spread["SOBA"] > 0.05
    assert spread["SABA"] < 1e-5
    assert spread["SRBA"] < 1e-5


EXACT = {
    **dict.fromkeys(("SOBA", "SABA", "SRBA", "MRBO", "SUSTAIN", "AMIGO")),
    "MASOBA": {"theta": 0.5},
    "STOCBIO": {"terms": 40, "v_lr": 0.45},
}


@pytest.mark.parametrize("method", EXACT)
def test_a_fixed_point_of_the_full_batch_has_no_hypergradient(method):
    problem = NoisyQuadratic()
    trainer = make(problem, method, EXACT[method], lower_iters=3)
    trainer.fit(*problem.full(), max_steps=200 if method == "STOCBIO" else 600)
    assert np.abs(problem.hypergradient(problem.x0)).max() > 0.1
    assert np.abs(problem.hypergradient(values(trainer, jt.ones(1))[0])).max() < 1e-4
    assert trainer.state.metrics["hypergradient_norm"] < 1e-4


@pytest.mark.parametrize("method", ["SABA", "SRBA"])
def test_a_fixed_point_of_small_batches_has_no_hypergradient(method):
    problem = NoisyQuadratic()
    trainer = make(problem, method)
    trainer.fit(*problem.loaders(), max_steps=600)
    assert np.abs(problem.hypergradient(values(trainer)[0])).max() < 1e-4


def test_the_fixed_point_of_f2sa_comes_as_close_as_its_weight_allows():
    problem = NoisyQuadratic()
    error = {}
    for weight in (10.0, 100.0, 1000.0):
        options = {"lambda_init": weight, "lambda_max": weight}
        trainer = make(problem, "F2SA", options, ul_lr=0.05)
        trainer.fit(*problem.full(), max_steps=800)
        assert trainer.state.metrics["hypergradient_norm"] < 2e-6 * weight
        error[weight] = np.abs(problem.hypergradient(trainer.ul_var[0].numpy().astype(float))).max()
    assert 5.0 < error[10.0] / error[100.0] < 20.0
    assert 5.0 < error[100.0] / error[1000.0] < 20.0


def test_the_fixed_point_of_f2sa_with_a_large_weight_has_no_hypergradient():
    problem, weight = NoisyQuadratic(), 1e5
    trainer = make(problem, "F2SA", {"lambda_init": weight, "lambda_max": weight})
    for variable, value in ((trainer.ul_var[0], problem.x0), (trainer.ll_var[0], problem.y0)):
        variable.assign(jt.array(value, dtype="float64"))  # float32 would drown the difference in rounding
    batches = [{n: jt.array(getattr(problem, n), dtype="float64") for n in names} for names in ("ABc", "Dt")]
    trainer.fit(*batches, max_steps=600)
    assert trainer.ul_var[0].dtype == "float64"
    assert np.abs(problem.hypergradient(trainer.ul_var[0].numpy())).max() < 1e-4


def test_the_estimators_alone():
    now, last, before = ([jt.array(np.float32(v))] for v in ([1.0, 2.0], [3.0, 5.0], [0.5, 1.0]))
    np.testing.assert_allclose(MovingAverage(0.25)(now, None)[0].numpy(), [1.0, 2.0])
    np.testing.assert_allclose(MovingAverage(0.25)(now, last)[0].numpy(), [2.5, 4.25])
    np.testing.assert_allclose(Storm(0.25)(now, before, last)[0].numpy(), [2.875, 5.0])
    np.testing.assert_allclose(SARAH(now, before, last)[0].numpy(), [3.5, 6.0])


def test_saga_remembers_each_batch_and_their_sum():
    memory = {"lower.0": [jt.ones(DIM_X)], "lower.1": [jt.ones(DIM_X)], "lower.sum": [2.0 * jt.ones(DIM_X)]}
    estimate, changed = Saga("lower", 2)([3.0 * jt.ones(DIM_X)], 0, memory)
    np.testing.assert_allclose(estimate[0].numpy(), 3.0)
    np.testing.assert_allclose(changed["lower.sum"][0].numpy(), 4.0)


def test_with_one_batch_of_each_level_saba_and_srba_are_soba():
    problem = NoisyQuadratic()
    ends = []
    for method in ("SOBA", "SABA", "SRBA"):
        trainer = make(problem, method)
        trainer.fit(*problem.full(), max_steps=20)
        ends.append(np.concatenate(values(trainer)))
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ends[2], ends[0], rtol=1e-5, atol=1e-6)
