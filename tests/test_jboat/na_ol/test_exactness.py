"""Every chain of the grammar against its closed form in numpy float64."""

from chains import solve
from jboat import registry
import jboat.na_ol  # noqa: F401  (registers the operators)
import jittor as jt
import numpy as np
from problems import Quadratic
import pytest

K, LR, M = 10, 0.1, 4
SECTIONS = {
    "CG": {"k": 40, "tolerance": 1e-7},
    "NS": {"k": 10, "tolerance": 0.0},
    "NYS": {"k": 10, "rho": 0.01},
    "FD": {"r": 0.1},
    "RGT": {"truncate_iter": M},
    "GDA": {"alpha_init": 0.4, "alpha_decay": 0.9},
    "IAD": {"proximal": 0.7},
}
PROBLEMS = {same: Quadratic(same_dims=same) for same in (False, True)}
CHAINS = [pair for pair in registry.valid_chains() if "DM" not in pair[0]]  # those with DM: test_dm.py


def relative_error(got, exact):
    return np.linalg.norm(got - exact) / np.linalg.norm(exact)


def reference(problem, gm, na, **kwargs):
    alphas = 0.4 * 0.9 ** np.arange(K) if "GDA" in gm else np.zeros(K)
    return problem.reference(na, K=K, lr=LR, alphas=alphas, M=M, k=10, lam=0.7, **kwargs)


def test_the_grammar_has_all_chains_of_the_contract():
    gm, na = registry.gm_chains(), registry.na_chains()
    assert {c for c in gm if "DM" not in c} == {("NGD",), ("DI", "NGD"), ("GDA", "NGD"), ("GDA", "DI", "NGD")}
    assert len(na) == len(set(na)) == 4 * 10 + 2
    assert not any("DI" in g and "IAD" in n for g, n in registry.valid_chains())


@pytest.mark.parametrize(("gm", "na"), CHAINS, ids=lambda chain: "+".join(chain))
def test_chain_equals_its_closed_form(gm, na):
    problem = PROBLEMS["IAD" in na]
    exact, upper_loss, k_star, by_y0 = reference(problem, gm, na)
    result = solve(problem, gm, na, lower_iters=K, lr=LR, sections=SECTIONS)
    limit = 1e-5 if "FD" in na else 1e-4
    assert relative_error(result["hyper_gradient"][0].numpy(), exact) < limit
    assert result["upper_loss"] == pytest.approx(upper_loss, rel=1e-5)
    assert result["hyper_gradient_finished"] is True
    if "PTT" in na:
        assert result["max_loss_iter"] == k_star
    if "DI" in gm:
        assert relative_error(result["ll_init_gradient"][0].numpy(), by_y0) < 1e-4
    else:
        assert "ll_init_gradient" not in result


@pytest.mark.parametrize("index", [1, 5, K])
@pytest.mark.parametrize("last", ["RAD", "FD", "IGA", "CG", "NS", "NYS"])
def test_ptt_index_forced_first_middle_last(index, last):
    problem = PROBLEMS[False]
    exact, upper_loss, _, _ = reference(problem, ("GDA", "NGD"), ("PTT", last), k_star=index)
    result = solve(problem, ("GDA", "NGD"), ("PTT", last), lower_iters=K, lr=LR, sections=SECTIONS, index=index)
    assert relative_error(result["hyper_gradient"][0].numpy(), exact) < (1e-5 if last == "FD" else 1e-4)
    assert result["upper_loss"] == pytest.approx(upper_loss, rel=1e-5)


@pytest.mark.parametrize(("where", "expected"), [("first", 1), ("middle", None), ("last", K)])
def test_ptt_finds_the_largest_upper_loss(where, expected):
    problem = Quadratic()
    ys = problem.iterates(problem.x0, problem.y0, K, LR, np.zeros(K))
    target = {"first": ys[K], "middle": target_with_inner_maximum(ys), "last": ys[0]}[where]
    problem.t[:] = target
    problem._vars["t"] = jt.array(target.astype("float32"))
    losses = [problem.upper(y, problem.x0) for y in ys[1:]]
    best = 1 + int(np.argmax(losses))
    assert best == expected or (where == "middle" and 1 < best < K)
    exact, _, k_star, _ = problem.reference(("PTT", "RAD"), K=K, lr=LR)
    result = solve(problem, ("NGD",), ("PTT", "RAD"), lower_iters=K, lr=LR, sections=SECTIONS)
    assert result["max_loss_iter"] == k_star == best
    assert relative_error(result["hyper_gradient"][0].numpy(), exact) < 1e-4


def target_with_inner_maximum(ys):
    """A far target t, so that F is about -t'y, along which a parabola with its top at step 5 is fitted."""
    design = np.column_stack([np.stack(ys[1:]), np.ones(K)])
    return -3.0 * np.linalg.lstsq(design, -((np.arange(1, K + 1) - 5.0) ** 2), rcond=1e-2)[0][:-1]


@pytest.mark.parametrize(
    ("gm", "na"),
    [
        (("GDA", "NGD"), ("RAD",)),
        (("GDA", "NGD"), ("RGT", "RAD")),
        (("GDA", "NGD"), ("IAD",)),
        (("GDA", "DI", "NGD"), ("RAD",)),
        (("DI", "NGD"), ("CG",)),
    ],
    ids=str,
)
@pytest.mark.parametrize("every", [1, 3, K])
def test_replay_equals_the_kept_graph(gm, na, every):
    problem = PROBLEMS["IAD" in na]
    kept = solve(problem, gm, na, lower_iters=K, lr=LR, sections=SECTIONS)
    replayed = solve(problem, gm, na, lower_iters=K, lr=LR, sections={**SECTIONS, "RAD": {"remat_every": every}})
    for name in ("hyper_gradient", "ll_init_gradient") if "DI" in gm else ("hyper_gradient",):
        assert relative_error(replayed[name][0].numpy(), kept[name][0].numpy()) < 1e-5
    assert relative_error(replayed["hyper_gradient"][0].numpy(), reference(problem, gm, na)[0]) < 1e-4


def test_user_gda_loss_gets_alpha_in_a_copy_of_the_batch():
    problem = PROBLEMS[False]
    alphas = []

    def mixed(ll_batch, ul_batch, ul_model, ll_model):
        alphas.append(ll_batch["alpha"])
        alpha = ll_batch["alpha"]
        return alpha * problem.F(ul_batch, ul_model, ll_model) + (1 - alpha) * problem.f(ll_batch, ul_model, ll_model)

    batch = {"key": 1}
    exact = reference(problem, ("GDA", "NGD"), ("CG",))[0]
    result = solve(
        problem, ("GDA", "NGD"), ("CG",), lower_iters=K, lr=LR, sections=SECTIONS, batches=(batch, {}), gda_loss=mixed
    )
    assert relative_error(result["hyper_gradient"][0].numpy(), exact) < 1e-4
    assert batch == {"key": 1}
    assert alphas == pytest.approx([*(0.4 * 0.9 ** np.arange(K)), 0.4 * 0.9 ** (K - 1)])


def test_cg_and_ns_report_their_work():
    problem = PROBLEMS[False]
    cg = solve(problem, ("NGD",), ("CG",), lower_iters=K, lr=LR, sections=SECTIONS)["diagnostics"]
    assert 5 <= cg["cg_iterations"] <= 10  # dimension 8 needs 8 in exact arithmetic
    assert cg["cg_residual"] <= 1e-6
    ns = solve(problem, ("NGD",), ("NS",), lower_iters=K, lr=LR, sections=SECTIONS)["diagnostics"]
    assert ns["ns_iterations"] == 10
    assert 0 < ns["ns_residual"] < 1
