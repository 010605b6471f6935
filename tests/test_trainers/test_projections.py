"""Constraints of both levels against numpy: the projections, and what is differentiated through them."""

from jboat import BilevelTrainer, NonFiniteError, autodiff, projections
import jittor as jt
import numpy as np
from problems import DIM_Y, Point, Quadratic
import pytest

LR = 0.1


def np_simplex(v, total=1.0):
    u = np.sort(v)[::-1]
    level = ((np.cumsum(u) - total) / np.arange(1, len(v) + 1)).max()
    return np.maximum(v - level, 0.0)


NUMPY = {
    "box": lambda v: np.clip(v, -0.3, 0.5),
    "nonnegative": lambda v: np.maximum(v, 0.0),
    "soft_threshold": lambda v: np.sign(v) * np.maximum(np.abs(v) - 0.04, 0.0),
    "l2_ball": lambda v: v * min(1.0, 0.8 / np.linalg.norm(v)),
    "simplex": np_simplex,
}
JBOAT = {
    "box": projections.box(-0.3, 0.5),
    "nonnegative": projections.nonnegative(),
    "soft_threshold": projections.soft_threshold(0.04),
    "l2_ball": projections.l2_ball(0.8),
    "simplex": projections.simplex(),
}
PROBLEM = Quadratic()


def trainer_of(projection=None, na_op=("RAD",), problem=PROBLEM, lower_iters=6, sections=None, lr=0.05, **kwargs):
    ul_model, ll_model = problem.models()
    return BilevelTrainer(
        ll_model,
        ul_model,
        problem.f,
        problem.F,
        ll_optimizer=jt.optim.SGD(list(ll_model.parameters()), LR),
        ul_optimizer=jt.optim.SGD(list(ul_model.parameters()), lr),
        na_op=na_op,
        lower_iters=lower_iters,
        ll_projection=projection,
        solver_config=sections,
        **kwargs,
    )


@pytest.mark.parametrize("name", NUMPY)
@pytest.mark.parametrize("shapes", [[(6,)], [(2, 3), (4,)]], ids=str)
def test_a_projection_and_its_derivative(name, shapes):
    rng = np.random.default_rng(0)
    sizes = [int(np.prod(s)) for s in shapes]
    for _ in range(5):
        whole, weights = rng.normal(size=sum(sizes)), rng.normal(size=sum(sizes))

        def parts(vector, sizes=sizes):
            pieces = np.split(vector.astype("float32"), np.cumsum(sizes)[:-1])
            return [jt.array(p.reshape(s)) for p, s in zip(pieces, shapes, strict=True)]

        values = parts(whole)
        found = projections.applied(JBOAT[name], values, "ll_projection")
        got = np.concatenate([v.numpy().ravel() for v in found])
        np.testing.assert_allclose(got, NUMPY[name](whole), rtol=1e-5, atol=1e-6)
        pulled = np.concatenate([v.numpy().ravel() for v in autodiff.vjp(found, values, parts(weights))])
        exact = [weights @ (NUMPY[name](whole + e) - NUMPY[name](whole - e)) / 2e-7 for e in 1e-7 * np.eye(len(whole))]
        np.testing.assert_allclose(pulled, exact, rtol=1e-4, atol=1e-5)


def test_the_side_of_a_kink_is_the_one_that_is_documented():
    at = {
        "box": ([-0.3, 0.5], [1.0, 1.0]),
        "nonnegative": ([0.0, 1.0], [1.0, 1.0]),
        "soft_threshold": ([0.04, -0.04], [0.0, 0.0]),
    }
    for name, (point, slopes) in at.items():
        v = jt.array(np.array(point, dtype="float32"))
        (found,) = projections.applied(JBOAT[name], [v], "x")
        np.testing.assert_array_equal(autodiff.grad(found.sum(), [v])[0].numpy(), slopes)
    v = jt.array(np.array([0.48, 0.64], dtype="float32"))  # on the sphere, to float32
    (found,) = projections.l2_ball(0.8000001)([v])
    np.testing.assert_allclose(autodiff.grad(found[0], [v])[0].numpy(), [1.0, 0.0], atol=1e-6)
    v = jt.array(np.array([1.0, 0.0, -1.0], dtype="float32"))  # the second comes out as exactly 0
    (found,) = projections.simplex()([v])
    np.testing.assert_allclose(autodiff.grad(found[0] + 5.0 * found[1], [v])[0].numpy(), [0.0, 0.0, 0.0], atol=1e-6)
    zero = jt.zeros(3)
    (found,) = projections.l2_ball(1.0)([zero])
    np.testing.assert_array_equal(autodiff.grad(found.sum(), [zero])[0].numpy(), 1.0)


def projected_loop(project, x, K):
    y = PROBLEM.y0
    for _ in range(K):
        y = project(y - LR * PROBLEM.phi_by_y(y, x, 0.0))
    return y


def finite_difference(value, x, eps=1e-6):
    return np.array([(value(x + e) - value(x - e)) / (2 * eps) for e in eps * np.eye(len(x))])


@pytest.mark.parametrize("name", NUMPY)
@pytest.mark.parametrize("remat", [0, 2])
def test_rad_goes_through_the_projection(name, remat):
    trainer = trainer_of(JBOAT[name], sections={"RAD": {"remat_every": remat}})
    result = trainer.hypergradient({}, {})
    np.testing.assert_allclose(
        result.ll_parameters[0].numpy(), projected_loop(NUMPY[name], PROBLEM.x0, 6), rtol=1e-4, atol=1e-5
    )
    exact = finite_difference(lambda x: PROBLEM.upper(projected_loop(NUMPY[name], x, 6), x), PROBLEM.x0)
    np.testing.assert_allclose(result.gradients[0].numpy(), exact, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NUMPY)
def test_fd_goes_through_the_last_projection(name):
    before = projected_loop(NUMPY[name], PROBLEM.x0, 5)

    def value(x):
        y = NUMPY[name](before - LR * PROBLEM.phi_by_y(before, x, 0.0))
        return PROBLEM.upper(y, x)

    sections = {"FD": {"through_optimizer": True}}
    result = trainer_of(JBOAT[name], ["FD"], sections=sections).hypergradient({}, {})
    np.testing.assert_allclose(result.gradients[0].numpy(), finite_difference(value, PROBLEM.x0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["box", "nonnegative", "soft_threshold"])
@pytest.mark.parametrize(
    ("operator", "section"),
    [
        ("CG", {"k": 60, "solver": "minres"}),
        ("NS", {"k": 2000, "tolerance": 1e-6}),
        ("NYS", {"k": DIM_Y, "rho": 1e-4}),
    ],
    ids=str,
)
def test_implicit_operators_differentiate_the_constrained_solution(name, operator, section):
    exact = finite_difference(lambda x: PROBLEM.upper(projected_loop(NUMPY[name], x, 3000), x), PROBLEM.x0)
    sections = {operator: {"through_optimizer": True, **section}}
    result = trainer_of(JBOAT[name], [operator], sections=sections, lower_iters=400).hypergradient({}, {})
    np.testing.assert_allclose(result.gradients[0].numpy(), exact, rtol=3e-3, atol=1e-3)


class Bound(jt.Module):
    """An upper model of a vector and a learned bound."""

    def __init__(self):
        self.value, self.bound = jt.array(PROBLEM.x0.astype("float32")), jt.array([0.2])

    def execute(self):
        return self.value


@pytest.mark.parametrize(
    ("operator", "section", "last_step"),
    [
        ("RAD", {}, False),
        ("FD", {"through_optimizer": True}, True),
        ("NS", {"through_optimizer": True, "k": 2000, "tolerance": 1e-6}, False),
        ("CG", {"through_optimizer": True, "k": 60, "solver": "minres"}, False),
        ("NYS", {"through_optimizer": True, "k": DIM_Y, "rho": 1e-4}, False),
    ],
    ids=str,
)
def test_a_learned_bound_has_a_hypergradient(operator, section, last_step):
    K = 400

    def ends(bound, steps, y):
        for _ in range(steps):
            y = np.clip(y - LR * PROBLEM.phi_by_y(y, PROBLEM.x0, 0.0), -bound, bound)
        return y

    before = ends(0.2, K - 1, PROBLEM.y0)

    def value(bound):
        y = ends(bound, 1, before) if last_step else ends(bound, K, PROBLEM.y0)
        return PROBLEM.upper(y, PROBLEM.x0)

    exact = (value(0.2 + 1e-5) - value(0.2 - 1e-5)) / 2e-5
    ul_model, ll_model = Bound(), Point(PROBLEM.y0)
    trainer = BilevelTrainer(
        ll_model,
        ul_model,
        PROBLEM.f,
        PROBLEM.F,
        ll_optimizer=jt.optim.SGD(list(ll_model.parameters()), LR),
        ul_optimizer=jt.optim.SGD(list(ul_model.parameters()), 0.1),
        na_op=[operator],
        lower_iters=K,
        ll_projection=projections.box(lambda: -ul_model.bound, lambda: ul_model.bound),
        solver_config={operator: section},
    )
    result = trainer.hypergradient({}, {})
    np.testing.assert_allclose(result.gradients[1].numpy(), exact, rtol=3e-3)


H, C, T, LEVEL = np.array([1.0, 2.0, 4.0]), np.array([3.0, -3.0, 3.0]), np.ones(3), 0.5


def soft_trainer(operator, section, optimizer):
    """``f = h y^2 / 2 - c y`` in steps of rate 0.125, each entry drawn towards 0 by 0.125 times a learned level."""
    h, c, t = (jt.array(a.astype("float32")) for a in (H, C, T))
    ul_model, ll_model = Point([LEVEL]), Point(np.zeros(3))
    return BilevelTrainer(
        ll_model,
        ul_model,
        lambda batch, ul_model, ll_model: (0.5 * h * ll_model() * ll_model() - c * ll_model()).sum(),
        lambda batch, ul_model, ll_model: 0.5 * ((ll_model() - t) ** 2).sum(),
        ll_optimizer=optimizer(list(ll_model.parameters())),
        ul_optimizer=jt.optim.SGD(list(ul_model.parameters()), 1.0),
        na_op=[operator],
        lower_iters=150,
        ll_projection=projections.soft_threshold(lambda: 0.125 * ul_model()),
        solver_config={operator: {"through_optimizer": True, **section}},
    )


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.5, False), (0.5, True)])
@pytest.mark.parametrize(
    ("operator", "section"), [("CG", {"k": 10}), ("NS", {"k": 500}), ("NYS", {"k": 3, "rho": 1e-3})], ids=str
)
def test_the_velocity_follows_the_gradient_that_a_constraint_leaves(momentum, nesterov, operator, section):
    """With a velocity the loop ends where ``h y = c - (1 - momentum) level sign(y)``."""
    signs = np.sign(C)
    y = (C - (1.0 - momentum) * LEVEL * signs) / H
    exact = -(1.0 - momentum) * (signs / H) @ (y - T)
    trainer = soft_trainer(operator, section, lambda p: jt.optim.SGD(p, 0.125, momentum=momentum, nesterov=nesterov))
    found = trainer.hypergradient({}, {})
    np.testing.assert_allclose(found.ll_parameters[0].numpy(), y, rtol=1e-4)
    assert found.gradients[0].item() == pytest.approx(exact, rel=5e-3)


def test_a_state_that_is_held_at_a_constraint_is_told(caplog):
    soft_trainer("CG", {"k": 3}, lambda p: jt.optim.RMSprop(p, 0.01)).hypergradient({}, {})
    assert "CG: through_optimizer holds the lower optimizer's state where y is projected" in caplog.text


def test_the_lasso_has_the_support_of_scikit_learn_at_the_penalty_that_is_learned():
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    n, d = 60, 20
    truth = np.zeros(d)
    truth[[2, 5, 11]] = [2.0, -3.0, 1.5]
    A, V = rng.normal(size=(n, d)), rng.normal(size=(n, d))
    b, c = A @ truth + 0.5 * rng.normal(size=n), V @ truth + 0.5 * rng.normal(size=n)
    batches = [{"a": M.astype("float32"), "b": v.astype("float32")} for M, v in ((A, b), (V, c))]

    def loss(batch, ul_model, ll_model):
        left = jt.matmul(batch["a"], ll_model().reshape(-1, 1)).reshape(-1) - batch["b"]
        return 0.5 * (left * left).mean()

    lr = 1.0 / np.linalg.eigvalsh(A.T @ A / n)[-1]
    ul_model, ll_model = Point([-5.0]), Point(np.zeros(d))
    trainer = BilevelTrainer(
        ll_model,
        ul_model,
        loss,
        loss,
        ll_optimizer=jt.optim.SGD(list(ll_model.parameters()), lr),
        ul_optimizer=jt.optim.Adam(list(ul_model.parameters()), 0.2),
        lower_iters=100,
        ll_projection=projections.soft_threshold(lambda: lr * ul_model().exp()),
    )
    trainer.fit(*batches, max_steps=40)
    penalty = float(np.exp(ul_model().numpy()[0]))
    trainer.hypergradient(*batches)
    theirs = linear_model.Lasso(alpha=penalty, fit_intercept=False, tol=1e-10).fit(A, b).coef_
    trainer.fit(*batches, max_steps=1)
    ours = ll_model().numpy()
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
    assert set(np.flatnonzero(np.abs(ours) > 1e-6)) == set(np.flatnonzero(np.abs(theirs) > 1e-6))
    assert {2, 5, 11} <= set(np.flatnonzero(ours))
    assert penalty > 2 * np.exp(-5.0)
    assert (ours == 0.0).sum() >= 5


def test_weights_of_samples_stay_on_the_simplex():
    problem = Quadratic()
    trainer = trainer_of(problem=problem, ul_projection=projections.simplex(), lr=0.3)
    x = PROBLEM.x0
    trainer.fit({}, {}, max_steps=1)
    y = projected_loop(lambda v: v, x, 6)
    through = finite_difference(lambda z: PROBLEM.upper(projected_loop(lambda v: v, z, 6), z), x)
    np.testing.assert_allclose(trainer.ul_var[0].numpy(), np_simplex(x - 0.3 * through), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(trainer.ll_var[0].numpy(), y, rtol=1e-4, atol=1e-5)
    trainer.fit({}, {}, max_steps=5)
    weights = trainer.ul_var[0].numpy()
    assert weights.min() >= 0.0
    assert weights.sum() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("method", ["ALTO", "VFO", "PGDO", "MESO", "GAFFO", "VSO"])
def test_first_order_methods_project_their_steps(method):
    trainer = trainer_of(JBOAT["box"], fo_op=method, ul_projection=projections.l2_ball(0.1))
    trainer.fit({}, {}, max_steps=3)
    y, x = trainer.ll_var[0].numpy(), trainer.ul_var[0].numpy()
    assert y.min() >= np.float32(-0.3)
    assert y.max() <= 0.5
    assert np.linalg.norm(x) <= 0.1 * 1.00001
    for kept in trainer.auxiliary.values():
        assert kept[0].numpy().max() <= 0.5


def test_a_resumed_run_is_bit_identical_and_a_checkpoint_knows_the_projection(tmp_path):
    def made(name="box"):
        return trainer_of(JBOAT[name], ul_projection=projections.l2_ball(0.5))

    straight, stopped, resumed = made(), made(), made()
    straight.fit({}, {}, max_steps=4)
    stopped.fit({}, {}, max_steps=2)
    stopped.save_checkpoint(tmp_path / "two.npz")
    resumed.fit({}, {}, max_steps=4, resume_from=tmp_path / "two.npz")
    for a, b in zip([*straight.ll_var, *straight.ul_var], [*resumed.ll_var, *resumed.ul_var], strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    with pytest.raises(ValueError, match="ll_projection"):
        made("simplex").load_checkpoint(tmp_path / "two.npz")


def two(values):
    return [*values, *values]


def flat(values):
    return [v[:1] for v in values]


def numbers(values):
    return [v.numpy() for v in values]


def broken(values):
    return [v / (0.0 * v) for v in values]


def not_a_list(values):
    return values[0]


@pytest.mark.parametrize("argument", ["ll_projection", "ul_projection"])
@pytest.mark.parametrize(
    ("projection", "error", "said"),
    [
        (two, ValueError, r"\(two\) must return one Var for each of its 1, got 2"),
        (flat, ValueError, r"\(flat\) must keep shapes: number 0 has shape"),
        (numbers, TypeError, r"\(numbers\) must return a list of Vars, got ndarray as number 0"),
        (not_a_list, TypeError, r"\(not_a_list\) must return a list of Vars, got"),
    ],
    ids=lambda v: getattr(v, "__name__", str(v)),
)
def test_a_projection_that_returns_something_else_is_refused_before_anything_runs(argument, projection, error, said):
    trainer = trainer_of(**{argument if argument == "ul_projection" else "projection": projection})
    before = trainer.ll_var[0].numpy()
    with pytest.raises(error, match=argument + " " + said):
        trainer.fit({}, {}, max_steps=1)
    np.testing.assert_array_equal(trainer.ll_var[0].numpy(), before)


def test_a_projection_that_is_not_finite_is_named_with_its_step():
    calls = []

    def later(values):
        calls.append(1)
        return broken(values) if len(calls) == 9 else values  # one call looks at the first batch

    with pytest.raises(NonFiniteError, match=r"NGD: ll_projection \(broken\) returned what .* at outer step 1"):
        trainer_of(broken).fit({}, {}, max_steps=1)
    with pytest.raises(NonFiniteError, match=r"ll_projection \(later\) .* at outer step 2, inner step 2"):
        trainer_of(later).fit({}, {}, max_steps=3, check_second_order=False)
    with pytest.raises(NonFiniteError, match=r"RAD: ul_projection \(broken\) returned what .* at outer step 1"):
        trainer_of(ul_projection=broken).fit({}, {}, max_steps=1)


@pytest.mark.parametrize("name", NUMPY)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_no_projection_makes_nan_finite(name, bad):
    """Infinity may be brought back by a bound; NaN never is."""
    values = [jt.array(np.array([0.1, bad, -0.2, 0.4], dtype="float32"))]
    found = JBOAT[name](values)[0].numpy()
    assert np.isfinite(found).all() == (name == "box" and np.isinf(bad))


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"na_op": ["CG"]}, r"CG does not see it.*set solver_config\['CG'\]\['through_optimizer'\] = True"),
        ({"na_op": ["NS"]}, "NS does not see it"),
        ({"na_op": ["NYS"]}, "NYS does not see it"),
        ({"na_op": ["FD"]}, r"FD does not see it.*set solver_config\['FD'\]\['through_optimizer'\] = True"),
        ({"na_op": ["IGA"]}, "IGA does not see it"),
        ({"gm_op": ["DM"]}, "DM does not see it"),
        ({"sl_op": "SOBA"}, "sl_op='SOBA' follows the equations of an unconstrained lower level"),
        (
            {"fo_op": "PGDO", "sections": {"PGDO": {"penalty": "gradient"}}},
            "fo_op='PGDO' cannot constrain its lower level",
        ),
    ],
    ids=str,
)
def test_methods_that_do_not_see_a_constraint_are_named(kwargs, said):
    with pytest.raises(ValueError, match="ll_projection: " + said):
        trainer_of(JBOAT["box"], **kwargs)


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: projections.box(1.0, 0.0), ValueError, "box: low must be at most high"),
        (lambda: projections.box(float("nan")), ValueError, "box: low must be a number"),
        (lambda: projections.l2_ball(0.0), ValueError, "l2_ball: radius must be above 0"),
        (lambda: projections.simplex(-1.0), ValueError, "simplex: total must be above 0"),
        (lambda: projections.soft_threshold(-0.1), ValueError, "soft_threshold: threshold must be at least 0"),
        (
            lambda: projections.soft_threshold("a"),
            TypeError,
            "soft_threshold: threshold must be a number or",
        ),
        (lambda: projections.soft_threshold(jt.array([0.1])), TypeError, "give a function of it"),
        (lambda: trainer_of(3), TypeError, "ll_projection must be a callable on a list of Vars, got 3"),
        (lambda: trainer_of(ul_projection="box"), TypeError, "ul_projection must be a callable"),
    ],
)
def test_arguments_out_of_range_are_refused(make, error, said):
    with pytest.raises(error, match=said):
        make()


def test_a_configuration_file_names_a_projection():
    ul_model, ll_model = PROBLEM.models()
    objects = {
        "ll_model": ll_model,
        "ul_model": ul_model,
        "ll_objective": PROBLEM.f,
        "ul_objective": PROBLEM.F,
        "ll_optimizer": jt.optim.SGD(list(ll_model.parameters()), LR),
        "ul_optimizer": jt.optim.SGD(list(ul_model.parameters()), 0.1),
    }
    config = {
        "ll_projection": {"function": "jboat.projections:box", "params": {"low": -0.3, "high": 0.5}},
        "ul_projection": "nonnegative",
        "lower_iters": 6,
    }
    trainer = BilevelTrainer.from_config(config, **objects)
    result = trainer.hypergradient({}, {})
    np.testing.assert_allclose(
        result.ll_parameters[0].numpy(), projected_loop(NUMPY["box"], PROBLEM.x0, 6), rtol=1e-4, atol=1e-5
    )
    for wrong, said in (
        ({"function": "jboat.projections:box", "params": {"lo": 1}}, "box has no argument 'lo'"),
        ({"function": "jboat.projections:simplex", "params": {"total": -1}}, "total must be above 0"),
    ):
        with pytest.raises(ValueError, match=said):
            BilevelTrainer.from_config({**config, "ll_projection": wrong}, **objects)
