"""A user's operator in the place of every hypergradient built-in, against closed forms in float64.

Each derives from a general base class, and does something that the built-in does not where that can be told apart.
"""

from dataclasses import dataclass

from chains import solve
from jboat import functional, register_operator, registry
from jboat.capabilities import UpperCapabilities
from jboat.linear_solvers import Solution
from jboat.na_ol import HyperGradientOperator, ImplicitHyperGradient, Terminal
from jboat.na_ol.modifier import Modifier
import jittor as jt
import numpy as np
from problems import DIM_Y, Quadratic
import pytest
from small_trainers import make

K, LR, M = 10, 0.1, 4
SECTIONS = {"CG": {"k": 40, "tolerance": 1e-7}, "NS": {"k": 10, "tolerance": 0.0}, "FD": {"r": 0.1}}
PROBLEMS = {same: Quadratic(same_dims=same) for same in (False, True)}
pytestmark = pytest.mark.usefixtures("own_registry")


def hypergradient(na_op, sections=None, *, gm_op=("NGD",), same_dims=False):
    problem = PROBLEMS[same_dims]
    _, ll_model = problem.models()
    if same_dims:  # where the lower level stands must not matter
        ll_model.value.assign(jt.array(np.zeros(DIM_Y, dtype="float32")))
    trainer = make(
        problem=problem,
        ll_model=ll_model,
        ll_lr=LR,
        ul_lr=0.05,
        lower_iters=K,
        gm_op=gm_op,
        na_op=na_op,
        solver_config={**SECTIONS, **(sections or {})},
    )
    return trainer.hypergradient({}, {})


def close(got, exact, limit=1e-4):
    error = np.linalg.norm(got.numpy() - exact) / np.linalg.norm(exact)
    assert error < limit, error


class Best:
    """Chooses the iterate with the smallest upper loss."""

    def __init__(self, upper_loss):
        self.upper_loss, self.losses = upper_loss, {}

    def look_at(self, step, trajectory):
        self.losses[step] = float(self.upper_loss(trajectory).item())

    def chosen(self):
        return min(self.losses, key=self.losses.get)


def until_chosen(**attributes):
    return type("Chosen", (Modifier,), {"modified": lambda self, trajectory, k: trajectory.until(k), **attributes})


@pytest.mark.parametrize("last", ["RAD", "CG", "NS", "FD", "IGA"])
@pytest.mark.parametrize("truncated", [False, True])
def test_ptt_that_takes_the_best_iterate(last, truncated):
    chosen = until_chosen(capabilities=UpperCapabilities(chooses_iterate=Best))
    register_operator("na", like="PTT")(chosen)
    problem, first = PROBLEMS[False], M if truncated else 0
    na_op = ("RGT", last) if truncated else (last,)
    ys = problem.iterates(problem.x0, problem.y0, K, LR, np.zeros(K))
    best = first + 1 + int(np.argmin([problem.upper(y, problem.x0) for y in ys[first + 1 :]]))
    exact, loss, *_ = problem.reference(("PTT", *na_op), K=K, lr=LR, M=first, k_star=best, k=10)
    result = hypergradient([*na_op, "Chosen"], {"RGT": {"truncate_iter": M}} if truncated else {})
    assert result.diagnostics["ptt_index"] == best
    assert result.upper_loss == pytest.approx(loss, rel=1e-5)
    close(result.gradients[0], exact)


def test_ptt_that_says_nothing_of_itself_takes_the_worst():
    register_operator("na", like="PTT")(until_chosen())
    exact, _, worst, _ = PROBLEMS[False].reference(("PTT", "RAD"), K=K, lr=LR)
    result = hypergradient(["Chosen", "RAD"])
    assert result.diagnostics["ptt_index"] == worst
    close(result.gradients[0], exact)


@dataclass(frozen=True)
class ForgetOptions:
    """Options of Forget.

    Attributes:
        steps: how many steps are forgotten.
    """

    steps: int = 2


def forgetting(**attributes):
    def modified(self, trajectory, max_loss_iter):
        return trajectory.since(self._options.tracked_from)

    return type("Forget", (Modifier,), {"modified": modified, **attributes})


@pytest.mark.parametrize("na_op", [("RAD",), ("PTT", "RAD"), ("CG",), ("IAD",)], ids=str)
def test_rgt_with_an_option_of_ones_own(na_op):
    forget = forgetting(capabilities=UpperCapabilities(tracked_from=lambda options: options.steps))
    register_operator("na", like="RGT", options=ForgetOptions)(forget)
    problem, chain = PROBLEMS["IAD" in na_op], [*na_op[:-1], "Forget", na_op[-1]]
    rules = (*na_op[:-1], "RGT", na_op[-1])
    exact = problem.reference(rules, K=K, lr=LR, M=M)[0]
    sections = {"Forget": {"steps": M}}
    close(hypergradient(chain, sections, same_dims="IAD" in na_op).gradients[0], exact)
    alone = solve(problem, ["NGD"], chain, lower_iters=K, lr=LR, sections={**SECTIONS, **sections})
    close(alone["hyper_gradient"][0], exact)
    kept = [graph is not None for graph in alone["trajectory"]._graphs._kept]
    assert kept == [na_op[-1] != "CG" and step >= M for step in range(K)]
    with pytest.raises(ValueError, match=r"Forget must take between 1 and 9 \(lower_iters - 1\) .* got 10"):
        hypergradient(chain, {"Forget": {"steps": K}}, same_dims="IAD" in na_op)


def test_rgt_that_says_nothing_of_itself_has_rgts_section():
    register_operator("na", like="RGT")(forgetting())
    exact = PROBLEMS[False].reference(("RGT", "RAD"), K=K, lr=LR, M=M)[0]
    close(hypergradient(["Forget", "RAD"], {"RGT": {"truncate_iter": M}}).gradients[0], exact)


def test_foa_of_ones_own():
    @register_operator("na", like="FOA")
    class Constant(Modifier):
        def modified(self, trajectory, max_loss_iter):
            return trajectory.with_constant_gradients()

    exact = PROBLEMS[True].reference(("FOA", "IAD"), K=K, lr=LR)[0]
    close(hypergradient(["Constant", "IAD"], same_dims=True).gradients[0], exact)
    assert not registry.plan(["NGD"], ["Constant", "IAD"]).needs_second_derivatives


def test_foa_that_keeps_the_last_steps():
    """Which needs second derivatives after all, and says so."""

    @register_operator("na", like="FOA")
    class Late(Modifier):
        capabilities = UpperCapabilities()

        def modified(self, trajectory, max_loss_iter):
            return trajectory.since(M)

    exact = PROBLEMS[True].reference(("RGT", "IAD"), K=K, lr=LR, M=M)[0]
    close(hypergradient(["Late", "IAD"], same_dims=True).gradients[0], exact)
    assert registry.plan(["NGD"], ["Late", "IAD"]).needs_second_derivatives


def initialising(**attributes):
    def compute_gradients(self, ll_feed_dict, ul_feed_dict, auxiliary_model, next_operation=None, **kwargs):
        if next_operation is not None:
            feeds = {"ll_feed_dict": ll_feed_dict, "ul_feed_dict": ul_feed_dict, "auxiliary_model": auxiliary_model}
            return {**kwargs, **feeds, "hparams": auxiliary_model.parameters(0)}
        loss, _, by_y = self._upper(auxiliary_model, ul_feed_dict)
        _, by_start = auxiliary_model.pullback(by_y, [])
        pulled = functional.axpy(0.25, auxiliary_model.parameters(0), by_start)
        return self._result(auxiliary_model, loss, pulled, by_y)

    return type("Meta", (HyperGradientOperator,), {"compute_gradients": compute_gradients, **attributes})


def test_iad_with_a_pull_to_zero():
    register_operator("na", like="IAD")(initialising())
    problem = PROBLEMS[True]
    exact = problem.reference(("IAD",), K=K, lr=LR)[0] + 0.25 * problem.x0
    close(hypergradient(["Meta"], same_dims=True).gradients[0], exact)
    with pytest.raises(ValueError, match="na_op Meta needs ul_model and ll_model of equal structure"):
        hypergradient(["Meta"])


@pytest.mark.parametrize("solver", ["CG", "NS"])
@pytest.mark.parametrize("own", [False, True])
def test_iad_before_a_solver_pulls_with_its_own_strength(solver, own):
    @dataclass(frozen=True)
    class Options:
        strength: float = 1.0

    if own:
        able = UpperCapabilities(starts_from_x=True, proximal=lambda options: options.strength, pulls_back=True)
        register_operator("na", like="IAD", options=Options)(initialising(capabilities=able))
        sections = {"Meta": {"strength": 0.7}}
    else:
        register_operator("na", like="IAD")(initialising())
        sections = {"IAD": {"proximal": 0.7}}
    exact = PROBLEMS[True].reference(("IAD", solver), K=K, lr=LR, lam=0.7)[0]
    close(hypergradient(["Meta", solver], sections, same_dims=True).gradients[0], exact)


@pytest.mark.parametrize("every", [0, 3])
@pytest.mark.parametrize("before", [(), ("PTT", "RGT")])
def test_rad_of_ones_own(every, before):
    @register_operator("na", like="RAD")
    class Regularised(HyperGradientOperator):
        def compute_gradients(self, ll_feed_dict, ul_feed_dict, auxiliary_model, next_operation=None, **kwargs):
            loss, by_x, by_y = self._upper(auxiliary_model, ul_feed_dict)
            through, _ = auxiliary_model.pullback(by_y, self.ul_var, by_start=False)
            total = functional.axpy(1.0, through, functional.axpy(0.25, self.ul_var, by_x))
            return self._result(auxiliary_model, loss, total, by_y)

    problem = PROBLEMS[False]
    exact = problem.reference((*before, "RAD"), K=K, lr=LR, M=M)[0] + 0.25 * problem.x0
    sections = {"RAD": {"remat_every": every}, "RGT": {"truncate_iter": M}}
    close(hypergradient([*before, "Regularised"], sections).gradients[0], exact)
    alone = solve(problem, ["NGD"], [*before, "Regularised"], lower_iters=K, lr=LR, sections={**SECTIONS, **sections})
    kept = sum(graph is not None for graph in alone["trajectory"]._graphs._kept)
    assert kept == (0 if every else K - M if before else K)


@pytest.mark.parametrize("like", ["FD", "IGA"])
@pytest.mark.parametrize("gm_op", [("NGD",), ("GDA", "NGD")], ids=str)
def test_fd_or_iga_with_another_formula(like, gm_op):
    """``grad_x F - grad_x phi``."""

    @register_operator("na", like=like)
    class Difference(Terminal):
        def total(self, trajectory, upper, ll_feed_dict, ul_feed_dict, hparams):
            y = trajectory.parameters()
            phi = self._lower(trajectory, trajectory.last - 1, ll_feed_dict, ul_feed_dict, y)
            return functional.axpy(-1.0, functional.detached(jt.grad(phi, self.ul_var)), upper.by_x), {}

    problem = PROBLEMS[False]
    alphas = 0.4 * 0.9 ** np.arange(K) if "GDA" in gm_op else np.zeros(K)
    y = problem.iterates(problem.x0, problem.y0, K, LR, alphas)[-1]
    exact = problem.upper_by_x(y, problem.x0) - problem.phi_by_x(y, problem.x0, alphas[-1])
    sections = {"GDA": {"alpha_init": 0.4, "alpha_decay": 0.9}}
    close(hypergradient(["Difference"], sections, gm_op=gm_op).gradients[0], exact)


@pytest.mark.parametrize("like", ["CG", "NS"])
@pytest.mark.parametrize("before", [(), ("IAD",)])
def test_cg_or_ns_with_steps_of_ones_own(like, before):
    """Richardson iterations with half the rate; their number is K of the section of the built-in."""

    @register_operator("na", like=like)
    class Richardson(ImplicitHyperGradient):
        def solve(self, product, b, learning_rates):
            q = [0.0 * v for v in b]
            for _ in range(self.K):
                q = functional.axpy(0.5 * LR, functional.axpy(-1.0, product(q), b), q)
            q = functional.detached(q)
            jt.sync(q)
            return Solution(q, self.K, 0.0)

    problem, terms = PROBLEMS[bool(before)], 7
    sections = {"CG": {"k": terms}} if like == "CG" else {"NS": {"k": terms}, "CG": {"k": 2}}
    result = hypergradient([*before, "Richardson"], sections, same_dims=bool(before))
    lam = 1.0 if before else 0.0
    x, y0 = problem.x0, problem.x0 if before else problem.y0
    y = problem.iterates(x, y0, K, LR, np.zeros(K), lam=lam)[-1]
    H, right, q = problem.A + lam * np.eye(DIM_Y), problem.upper_by_y(y, x), np.zeros(DIM_Y)
    for _ in range(terms):
        q = q + 0.5 * LR * (right - H @ q)
    close(result.gradients[0], lam * q if before else problem.upper_by_x(y, x) + problem.B.T @ q)
    assert result.diagnostics["richardson_iterations"] == terms
