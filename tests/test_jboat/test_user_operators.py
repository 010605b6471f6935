"""An operator that a user registers: the one of docs/custom-operators.md, and one of each other kind."""

from pathlib import Path
import re

from chains import solve
from jboat import register_operator, registry
from jboat.callbacks import ModelCheckpoint
from jboat.fo_ol import FirstOrder, FirstOrderStep
from jboat.gm_ol import NGD
from jboat.trainers.commands import ops
from jboat.trainers.persistence.checkpoint import CheckpointError
import numpy as np
from problems import DIM_Y, Quadratic
import pytest
from small_trainers import make

PAGE = Path(__file__).parents[2] / "docs" / "custom-operators.md"


@pytest.fixture
def nystrom(own_registry):
    block = re.search(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.M | re.S)
    names = {"__name__": "page"}
    exec(block[1], names)
    return names["Nystrom"]


def trainer(problem, **kwargs):
    return make(problem=problem, ul_lr=0.05, lower_iters=3, **kwargs)


def test_with_all_columns_it_solves_the_damped_system(nystrom):
    problem = Quadratic()
    sections = {"Nystrom": {"rank": DIM_Y, "rho": 0.3}}
    result = solve(problem, ["NGD"], ["Nystrom"], lower_iters=3, lr=0.1, sections=sections)
    y = problem.iterates(problem.x0, problem.y0, 3, 0.1, np.zeros(3))[-1]
    q = np.linalg.solve(problem.A + 0.3 * np.eye(DIM_Y), problem.upper_by_y(y, problem.x0))
    exact = problem.upper_by_x(y, problem.x0) + problem.B.T @ q
    np.testing.assert_allclose(result["hyper_gradient"][0].numpy(), exact, rtol=1e-4, atol=1e-5)
    assert result["diagnostics"]["nystrom_iterations"] == DIM_Y
    assert result["diagnostics"]["nystrom_residual"] < 1e-5


def test_after_iad_it_completes_implicit_maml(nystrom):
    problem = Quadratic(same_dims=True)
    sections = {"Nystrom": {"rank": DIM_Y, "rho": 0.3}, "IAD": {"proximal": 0.7}}
    result = solve(problem, ["NGD"], ["IAD", "Nystrom"], lower_iters=3, lr=0.1, sections=sections)
    y = problem.iterates(problem.x0, problem.x0, 3, 0.1, np.zeros(3), lam=0.7)[-1]
    exact = 0.7 * np.linalg.solve(problem.A + (0.7 + 0.3) * np.eye(DIM_Y), problem.upper_by_y(y, problem.x0))
    np.testing.assert_allclose(result["hyper_gradient"][0].numpy(), exact, rtol=1e-4, atol=1e-5)


def test_the_grammar_has_it_wherever_cg_may_stand(nystrom):
    chains = registry.valid_chains()
    for gm, na in [pair for pair in chains if "CG" in pair[1]]:
        swapped = (gm, tuple("Nystrom" if name == "CG" else name for name in na))
        assert (swapped in chains) == ("DM" not in gm)
    assert registry.order_na(["Nystrom", "RGT", "PTT"]) == ("PTT", "RGT", "Nystrom")
    with pytest.raises(ValueError, match="is not a chain"):
        registry.order_na(["Nystrom", "CG"])
    with pytest.raises(ValueError, match=r"unknown operator 'Nistrom'.*Did you mean 'Nystrom'\?"):
        registry.order_na(["Nistrom"])


def test_its_options_are_checked(nystrom):
    with pytest.raises(ValueError, match=r"solver_config\['Nystrom'\] has no key 'ranks'.*Did you mean 'rank'\?"):
        trainer(Quadratic(), na_op=["Nystrom"], solver_config={"Nystrom": {"ranks": 3}})
    with pytest.raises(ValueError, match="rank >= 1 and rho > 0, got 0"):
        trainer(Quadratic(), na_op=["Nystrom"], solver_config={"Nystrom": {"rank": 0}})


def test_ops_lists_it(nystrom):
    listing = ops.listing()
    assert "Nystrom" in listing
    assert "rank=10, rho=0.01" in listing
    assert "Hataya and Yamada" in listing
    assert "NGD             IAD+Nystrom" in ops.chain_listing()
    assert "### Nystrom" in ops.page()
    assert "* `rank` (default `10`)" in ops.page()


def test_a_checkpoint_goes_on_with_it_and_refuses_others(nystrom, tmp_path):
    def build(na="Nystrom", callbacks=True):
        savers = [ModelCheckpoint(tmp_path, every_n_steps=2)] if callbacks else []
        return trainer(Quadratic(), na_op=[na], callbacks=savers)

    whole = build(callbacks=False)
    whole.fit({}, {}, max_steps=5)
    build().fit({}, {}, max_steps=2)
    parts = build()
    parts.fit({}, {}, max_steps=5, resume_from="last")
    np.testing.assert_equal(parts.values(), whole.values())
    with pytest.raises(CheckpointError, match="Nystrom"):
        build("CG").fit({}, {}, max_steps=5, resume_from="last")


def test_a_lower_level_operator_of_ones_own(own_registry):
    @register_operator("gm", like="NGD", cost="twice that of NGD")
    class Twice(NGD):
        """NGD with twice as many steps."""

        def optimize(self, *args, **kwargs):
            self.lower_loop *= 2
            try:
                return super().optimize(*args, **kwargs)
            finally:
                self.lower_loop //= 2

    assert registry.order_gm(["Twice", "DI", "GDA"]) == ("GDA", "DI", "Twice")
    problem = Quadratic()
    exact = problem.reference(("RAD",), K=6, lr=0.1)[0]
    result = trainer(problem, gm_op=["Twice"], na_op=["RAD"]).hypergradient({}, {})
    np.testing.assert_allclose(result.gradients[0].numpy(), exact, rtol=1e-4, atol=1e-5)


def test_a_first_order_method_of_ones_own(own_registry):
    @register_operator("fo", cost="one upper gradient")
    class Direct(FirstOrder):
        """The direct gradient, y standing still."""

        def optimize(self, ll_feed_dict, ul_feed_dict, current_iter, auxiliary=None):
            y = self.start()
            upper = self.gradients(lambda v: self.upper_value(v, ul_feed_dict), y)
            loss = float(upper.loss.item())
            return FirstOrderStep(
                gradients=upper.by_x, ll_parameters=y, ll_state=self.rule.load(), upper_loss=loss, lower_loss=loss
            )

    problem = Quadratic()
    result = trainer(problem, fo_op="Direct").hypergradient({}, {})
    np.testing.assert_allclose(result.gradients[0].numpy(), problem.upper_by_x(problem.y0, problem.x0), rtol=1e-4)
    with pytest.raises(ValueError, match="Did you mean 'Direct'"):
        trainer(problem, fo_op="Direkt")


@pytest.mark.parametrize(
    ("kind", "arguments", "error", "message"),
    [
        ("na", {}, ValueError, "no like=; like must be one of PTT, FOA"),
        ("na", {"like": "cg"}, ValueError, r"like='cg'; like must be one of .* Did you mean 'CG'\?"),
        ("na", {"like": "NGD"}, ValueError, "like must be one of PTT"),
        ("fo", {"like": "CG"}, ValueError, "left out for kind 'fo'"),
        ("xx", {}, ValueError, "kind must be 'gm', 'na', 'fo' or 'sl', got 'xx'"),
        ("na", {"like": "CG", "options": int}, TypeError, "options must be a dataclass"),
    ],
)
def test_what_cannot_be_registered(own_registry, kind, arguments, error, message):
    with pytest.raises(error, match=message):
        register_operator(kind, **arguments)(type("Mine", (), {}))
    with pytest.raises(ValueError, match="'CG' is registered already"):
        register_operator("na")(type("CG", (), {}))
