"""The lower objective in parts of its batch: the same numbers as of the whole batch, with every method."""

import logging

from jboat import autodiff
from jboat.backend import ranks
from jboat.terms import summed
from jboat.trainers.data import micro_batches
from jboat.trainers.data.micro_batches import parts_of
import jittor as jt
from jittor import nn
import numpy as np
from problems import Point
import pytest
from small_trainers import make

N, D, K, LR = 10, 4, 3, 0.2
RNG = np.random.default_rng(0)
X, V = (RNG.normal(size=(N, D)).astype("float32") for _ in range(2))
T, S = (RNG.normal(size=N).astype("float32") for _ in range(2))
X0, Y0 = (0.5 * RNG.normal(size=D).astype("float32") for _ in range(2))
LOWER, UPPER = {"data": X, "target": T}, {"data": V, "target": S}


def f(batch, ul_model, ll_model):
    """Nonlinear in both levels, with a part that depends on no sample."""
    y, x = ll_model(), ul_model()
    out = (batch["data"] * (y + x).reshape(1, -1)).sum(1).tanh()
    return ((out - batch["target"]) ** 2).mean() + 0.1 * (y * y).sum()


def F(batch, ul_model, ll_model):
    out = (batch["data"] * ll_model().reshape(1, -1)).sum(1)
    return ((out - batch["target"]) ** 2).mean() + 0.05 * (ul_model() ** 2).sum()


def trainer_of(parts, **arguments):
    three = {"k": 3}
    sections = {"GDA": {"alpha_init": 0.3}, "RGT": {"truncate_iter": 1}, "CG": three, "NS": three, "NYS": three}
    sections.update(arguments.pop("solver_config", {}))
    own = {"ll_objective": f, "ul_objective": F, "ll_model": Point(Y0), "ul_model": Point(X0), "lower_iters": K}
    return make(ll_lr=LR, solver_config=sections, lower_micro_batches=parts, seed=1, **{**own, **arguments})


def unrolled(x):
    """F(x, y_K(x)) in float64."""
    y = Y0.astype(float)
    data, target = X.astype(float), T.astype(float)
    for _ in range(K):
        out = np.tanh(data @ (y + x))
        y = y - LR * (2.0 / N * data.T @ ((out - target) * (1.0 - out**2)) + 0.2 * y)
    return np.mean((V.astype(float) @ y - S.astype(float)) ** 2) + 0.05 * x @ x


@pytest.mark.parametrize("section", [{}, {"RAD": {"remat_every": 1}}, {"RAD": {"checkpoints": 2}}], ids=str)
@pytest.mark.parametrize("parts", [3, 10, 50])
def test_the_hypergradient_is_the_derivative_of_the_whole_loop(parts, section):
    found = trainer_of(parts, solver_config=section).hypergradient(LOWER, UPPER)
    eps = 1e-5 * np.eye(D)
    exact = [(unrolled(X0 + e) - unrolled(X0 - e)) / 2e-5 for e in eps]
    np.testing.assert_allclose(found.gradients[0].numpy(), exact, rtol=2e-5, atol=1e-6)
    assert found.upper_loss == pytest.approx(unrolled(X0.astype(float)), rel=1e-6)


METHODS = {
    **{name: {"na_op": [name]} for name in ("RAD", "CG", "NS", "FD", "IGA")},
    # the Hessian here has a curvature of -0.26, which the default rho of 0.01 does not lift: rounding is amplified
    "NYS": {"na_op": ["NYS"], "solver_config": {"NYS": {"rho": 1.0}}},
    "PTT+RGT": {"na_op": ["PTT", "RGT", "RAD"]},
    "IAD": {"na_op": ["IAD"]},
    "IAD+CG": {"na_op": ["IAD", "CG"]},
    "GDA+DI": {"gm_op": ["GDA", "DI", "NGD"]},
    "GDA+DM": {"gm_op": ["GDA", "DM"], "na_op": ["CG"]},
    **{name: {"fo_op": name} for name in ("VFO", "MESO", "GAFFO", "ALTO")},
    # by default VSO divides a difference of two losses by 1e-2 and less, and rounding with it
    "VSO": {"fo_op": "VSO", "solver_config": {"VSO": {"slack": 1.0, "boundary": 0.5}}},
    "PGDO": {"fo_op": "PGDO", "solver_config": {"PGDO": {"penalty": "gradient"}}},
    **{name: {"sl_op": name} for name in ("SOBA", "SRBA", "STOCBIO", "AMIGO", "F2SA")},
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_moves_as_with_whole_batches(name):
    values = []
    for parts in (1, 4):
        trainer = trainer_of(parts, **METHODS[name])
        trainer.fit(LOWER, UPPER, max_steps=2)
        values.append(trainer.values())
    for key, whole in values[0].items():
        assert np.linalg.norm(values[1][key] - whole) <= 1e-6 * np.linalg.norm(whole), key


def test_parts_differ_by_one_sample_and_weigh_as_many():
    assert [(p.begin, p.end) for p in parts_of(10, 4)] == [(0, 2), (2, 5), (5, 7), (7, 10)]
    assert [p.weight for p in parts_of(10, 4)] == [0.2, 0.3, 0.2, 0.3]
    assert [p.weight for p in parts_of(2, 4)] == [0.5, 0.5]


def test_one_term_is_alive_at_a_time():
    """As many Vars are there when the last term begins as when the second one does, in both passes."""
    y, before, seen = jt.array([0.5, -1.0]), jt.liveness_info()["lived_vars"], []

    def term():
        seen.append(jt.liveness_info()["lived_vars"] - before)
        return (y * y * y * y).sum()

    loss = summed([term] * 4, [0.25] * 4, [y], [])
    (gradient,) = autodiff.grad(loss, [y])
    vector = [jt.array([1.0, 2.0])]
    (product,) = autodiff.vjp([gradient], [y], vector)
    value = y.numpy()
    slope, curved = 4 * value**3, 12 * value**2 * [1.0, 2.0]
    np.testing.assert_allclose(loss.item(), (value**4).sum(), rtol=1e-6)
    np.testing.assert_allclose(gradient.numpy(), slope, rtol=1e-6)
    np.testing.assert_allclose(product.numpy(), curved, rtol=1e-6)
    assert len(seen) == 8
    assert seen[3] == seen[1]
    assert seen[7] == seen[5]
    (squared,) = autodiff.hvp(loss * loss, [y], vector)
    exact = 2 * slope * (slope @ [1.0, 2.0]) + 2 * (value**4).sum() * curved
    np.testing.assert_allclose(squared.numpy(), exact, rtol=1e-6)
    with pytest.raises(Exception, match="third derivative of the lower objective"):
        autodiff.vjp([product], [y], [y])


def test_random_numbers_are_the_same_in_every_pass():
    """``y_K = -lr x sum_k m_k`` for the masks m_k of parts and steps, so that ``d sum(y_K) / dx = sum(y_K) / x``."""

    def masked(batch, ul_model, ll_model):
        return (nn.dropout(ll_model(), 0.5, is_train=True) * ul_model()).sum() + 0.0 * batch["data"].mean()

    trainer = trainer_of(
        3,
        ll_objective=masked,
        ul_objective=lambda batch, ul_model, ll_model: ll_model().sum(),
        ll_model=Point(np.zeros(50)),
        ul_model=Point([0.5]),
    )
    found = trainer.hypergradient(LOWER, UPPER)
    moved = found.ll_parameters[0].numpy()
    assert len(np.unique(moved.round(4))) > 3
    assert found.gradients[0].item() == pytest.approx(moved.sum() / 0.5, rel=1e-5)


def test_running_statistics_are_the_mean_of_the_parts_and_a_warning_says_what_is_not_exact(caplog):
    class Normalised(jt.Module):
        def __init__(self):
            self.norm, self.weight = nn.BatchNorm(D), jt.ones((D, 1))

        def execute(self, x):
            return jt.matmul(self.norm(x), self.weight)

    def g(batch, ul_model, ll_model):
        return (ll_model(batch["data"]) ** 2).mean() * ul_model()[0].exp()

    def sgd(parameters):
        return jt.optim.SGD([p for p in parameters if not p.is_stop_grad()], 0.1)

    own = {"ll_model": Normalised(), "ll_objective": g, "ul_objective": g, "ll_optimizer": sgd}
    trainer = trainer_of(3, **own)
    with caplog.at_level(logging.WARNING, "jboat"):
        trainer.fit(LOWER, UPPER, max_steps=2, check_second_order=False)
    mean = X.mean(0, dtype=float) * (1.0 - 0.9 ** (2 * K))
    np.testing.assert_allclose(trainer.ll_model.norm.running_mean.numpy(), mean, rtol=1e-5, atol=1e-7)
    assert caplog.text.count("normalises each part by itself") == 1


def test_what_is_logged_counts_by_its_samples_once():
    def logged(batch, ul_model, ll_model):
        trainer.log("target", batch["target"].mean())
        return f(batch, ul_model, ll_model)

    trainer = trainer_of(4, ll_objective=logged)
    trainer.fit(LOWER, UPPER, max_steps=1)
    assert trainer.state.metrics["target"] == pytest.approx(T.mean(), rel=1e-6)


@pytest.mark.parametrize(("parts", "error"), [(0, ValueError), (-2, ValueError), (2.0, TypeError), (True, TypeError)])
def test_bad_numbers_are_refused(parts, error):
    with pytest.raises(error, match=f"lower_micro_batches must be .* got {parts}"):
        trainer_of(parts)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({}, "has no array with a first dimension of samples"),
        (
            {"data": X, "target": T[:5]},
            r"different first dimensions.*'data': \[10, 4\].*an entry 'batch_size'",
        ),
        ({"data": X, "target": T, "batch_size": 7}, "has no array with a first dimension of samples"),
        ({"data": X[:0], "target": T[:0]}, r"has no samples: .*'data': \[0, 4\]"),
    ],
)
def test_batches_that_have_no_samples_are_refused(batch, message):
    with pytest.raises(ValueError, match=message):
        trainer_of(2).hypergradient(batch, UPPER)


def test_an_entry_batch_size_says_what_a_sample_is():
    def with_matrix(batch, ul_model, ll_model):
        assert batch["batch_size"] == batch["data"].shape[0] == len(batch["names"])
        return f(batch, ul_model, ll_model) * batch["matrix"].sum()

    extra = {"matrix": np.full((3, 2), 0.25, "float32"), "batch_size": N, "names": [str(k) for k in range(N)]}
    whole, parts = (
        trainer_of(m, ll_objective=with_matrix).hypergradient({**LOWER, **extra}, UPPER).gradients[0].numpy()
        for m in (1, 3)
    )
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("extra", [{}, {"batch_size": 1}], ids=str)
def test_a_last_batch_of_one_sample_has_one_part(extra):
    """All its arrays may have the shape that numbers have."""

    def of_numbers(batch, ul_model, ll_model):
        return ((batch["target"] - ll_model().sum()) ** 2).mean() * ul_model().sum()

    batch = {"target": T[:1], "index": np.zeros(1, "int32"), **extra}
    whole, parts = (
        trainer_of(m, ll_objective=of_numbers).hypergradient(batch, UPPER).gradients[0].numpy() for m in (1, 3)
    )
    np.testing.assert_allclose(parts, whole, rtol=1e-6)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("parts", [4, N])
def test_an_objective_that_is_no_mean_is_told_of(parts, reduction, caplog):
    def reduced(batch, ul_model, ll_model):
        out = (batch["data"] * (ll_model() + ul_model()).reshape(1, -1)).sum(1).tanh()
        return getattr((out - batch["target"]) ** 2, reduction)() + 0.1 * (ll_model() * ll_model()).sum()

    trainer = trainer_of(parts, ll_objective=reduced)
    with caplog.at_level(logging.WARNING, "jboat"):
        trainer.fit(LOWER, UPPER, max_steps=2, check_second_order=False)
    assert caplog.text.count("reduced of the first") == (reduction == "sum")
    if reduction == "sum":
        assert "not a mean over samples" in caplog.text


def test_ranks_with_unequal_shares_have_as_many_parts():
    shares = [micro_batches._fewest_on_a_rank(shard, n) for n, shard in ((2, _Second({}, [1 / 3, 2 / 3])), (5, {}))]
    assert shares == [1, 5]


class _Second(ranks.Shard):
    """What rank 1 holds."""

    weight = property(lambda self: self.weights[1])


def of_nested(batch, ul_model, ll_model):
    data, (target,) = batch["pair"]["data"], batch["pair"]["targets"]
    return f({"data": jt.array(data), "target": jt.array(target)}, ul_model, ll_model)


@pytest.mark.parametrize("made", [jt.array, np.asarray])
@pytest.mark.parametrize("beside", [{}, {"id": np.arange(N)}], ids=str)
def test_samples_within_dicts_and_tuples_are_split_too(made, beside):
    nested = {"pair": {"data": made(X), "targets": (made(T),)}, **beside}
    seen, found = [], {}

    def seeing(batch, *models):
        seen.append(len(batch["pair"]["targets"][0]))
        return of_nested(batch, *models)

    for parts in (1, 3):
        found[parts] = trainer_of(parts, ll_objective=seeing).hypergradient(nested, UPPER).gradients[0].numpy()
        assert max(seen) == (10 if parts == 1 else 6)  # two parts at once are looked at
        seen.clear()
    np.testing.assert_allclose(found[3], found[1], rtol=2e-6)


def test_shapes_that_do_not_fit_in_a_part_are_told_with_the_reason():
    def whole(batch, ul_model, ll_model):
        return f(batch, ul_model, ll_model) + (batch["data"][:, 0] * jt.array(T)).mean()

    with pytest.raises(RuntimeError, match="lower_micro_batches gives samples 0 to 4 of a batch of 10"):
        trainer_of(2, ll_objective=whole).hypergradient(LOWER, UPPER)
