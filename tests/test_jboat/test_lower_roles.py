"""A user's operator in the place of every lower-level built-in, against closed forms in float64.

Each derives from the general base class, and does something that the built-in does not, so that the number shows whose
operator has run.
"""

from dataclasses import dataclass

from chains import solve
from jboat import functional, register_operator, registry
from jboat.callbacks import DISchedule, GDASchedule, ModelCheckpoint
from jboat.capabilities import LowerCapabilities
from jboat.gm_ol import LowerLevelOperator
from jboat.lower_objective import LowerObjective
import jittor as jt
import numpy as np
from problems import DIM_Y, Quadratic
import pytest
import small_trainers

K, LR = 10, 0.1
TERMINALS = ["RAD", "CG", "NS", "FD", "IGA"]
SECTIONS = {"CG": {"k": 40, "tolerance": 1e-7}, "NS": {"k": 10, "tolerance": 0.0}, "FD": {"r": 0.1}}
pytestmark = pytest.mark.usefixtures("own_registry")


def make(problem, *, sections=None, ul_lr=0.05, **kwargs):
    return small_trainers.make(problem=problem, ll_lr=LR, ul_lr=ul_lr, lower_iters=K, solver_config=sections, **kwargs)


def close(got, exact, limit=1e-4):
    error = np.linalg.norm(got.numpy() - exact) / np.linalg.norm(exact)
    assert error < limit, error


@dataclass(frozen=True)
class FadingOptions:
    """Options of Fading.

    Attributes:
        first: the weight at inner step 0.
    """

    first: float = 0.4


def aggregating(**attributes):
    def optimize(self, next_operation=None, **kwargs):
        return {**kwargs, "lower_objective": self.lower_objective(aggregated=True)}

    return type("Fading", (LowerLevelOperator,), {"optimize": optimize, **attributes})


def fading():
    weight = LowerCapabilities(weight=lambda options, step: options.first / (step + 1))
    return register_operator("gm", like="GDA", options=FadingOptions)(aggregating(capabilities=weight))


@pytest.mark.parametrize("last", TERMINALS)
@pytest.mark.parametrize("through", ["operators", "trainer"])
def test_gda_with_weights_of_ones_own(last, through):
    fading()
    problem, sections = Quadratic(), {**SECTIONS, "Fading": {"first": 0.6}}
    exact = problem.reference((last,), K=K, lr=LR, alphas=0.6 / np.arange(1, K + 1), k=10)[0]
    if through == "operators":
        got = solve(problem, ["Fading", "NGD"], [last], lower_iters=K, lr=LR, sections=sections)["hyper_gradient"]
    else:
        result = make(problem, gm_op=["NGD", "Fading"], na_op=[last], sections=sections).hypergradient({}, {})
        assert result.diagnostics["gda_alpha"] == 0.6
        got = result.gradients
    close(got[0], exact)


@pytest.mark.parametrize("last", TERMINALS)
def test_gda_that_says_nothing_of_itself_has_gdas_weights_and_section(last):
    register_operator("gm", like="GDA")(aggregating())
    problem, sections = Quadratic(), {**SECTIONS, "GDA": {"alpha_init": 0.4, "alpha_decay": 0.9}}
    exact = problem.reference((last,), K=K, lr=LR, alphas=0.4 * 0.9 ** np.arange(K), k=10)[0]
    got = make(problem, gm_op=["Fading", "NGD"], na_op=[last], sections=sections).hypergradient({}, {})
    close(got.gradients[0], exact)


@pytest.mark.parametrize("last", TERMINALS)
def test_gda_that_hands_on_an_objective_of_ones_own(last):
    ridge = 0.3

    class Ridged(LowerObjective):
        def __call__(self, model, parameters, *rest):
            return super().__call__(model, parameters, *rest) + 0.5 * ridge * sum((y * y).sum() for y in parameters)

    @register_operator("gm", like="GDA")
    class Ridge(LowerLevelOperator):
        def optimize(self, next_operation=None, **kwargs):
            levels = self.ll_objective, self.ul_objective, self.ul_model, self.solver_config
            return {**kwargs, "lower_objective": Ridged(*levels, aggregated=False)}

    problem = Quadratic()
    got = make(problem, gm_op=["Ridge", "NGD"], na_op=[last], sections=SECTIONS).hypergradient({}, {})
    problem.A = problem.A + ridge * np.eye(DIM_Y)
    exact = problem.reference((last,), K=K, lr=LR, k=10)[0]
    if last == "IGA":  # whose formula needs phi itself
        y = problem.iterates(problem.x0, problem.y0, K, LR, np.zeros(K))[-1]
        by_y, slope = problem.upper_by_y(y, problem.x0), problem.phi_by_y(y, problem.x0, 0.0)
        exact = problem.upper_by_x(y, problem.x0) + (by_y @ slope) / (slope @ slope) * problem.B.T @ y
    close(got.gradients[0], exact)


@pytest.mark.parametrize("last", ["CG", "IGA"])
def test_a_schedule_of_gda_reaches_the_hypergradient(last):
    """The second outer step is differentiated at its own weights, not at those of the first."""
    problem = Quadratic()
    trainer = make(
        problem,
        gm_op=["GDA", "NGD"],
        na_op=[last],
        sections={**SECTIONS, "GDA": {"alpha_init": 0.5, "alpha_decay": 1.0}},
        callbacks=[GDASchedule(lambda step: 0.2 if step == 0 else 0.7)],
        ul_lr=1.0,
        warm_start=False,
    )
    x = [problem.x0]
    for alpha in (0.2, 0.7):
        trainer.fit({}, {}, max_steps=1)
        problem.x0 = x[-1]
        x.append(x[-1] - problem.reference((last,), K=K, lr=LR, alphas=np.full(K, alpha))[0])
        close(trainer.ul_var[0], x[-1], 1e-3)


def test_a_schedule_of_gda_reaches_an_operator_like_it():
    @dataclass(frozen=True)
    class Options:
        alpha_init: float = 0.4

    weight = LowerCapabilities(weight=lambda options, step: options.alpha_init / (step + 1))
    register_operator("gm", like="GDA", options=Options)(aggregating(capabilities=weight))
    problem = Quadratic()
    trainer = make(problem, gm_op=["Fading", "NGD"], callbacks=[GDASchedule(lambda step: 0.3)], ul_lr=1.0)
    trainer.fit({}, {}, max_steps=1)
    exact = problem.x0 - problem.reference(("RAD",), K=K, lr=LR, alphas=0.3 / np.arange(1, K + 1))[0]
    close(trainer.ul_var[0], exact)
    assert trainer.history["gda_alpha"] == [0.3]


def test_a_schedule_of_an_option_that_there_is_not():
    fading()
    trainer = make(Quadratic(), gm_op=["Fading", "NGD"], callbacks=[GDASchedule(lambda step: 0.3)])
    with pytest.raises(ValueError, match="GDASchedule sets alpha_init, which Fading has not"):
        trainer.fit({}, {}, max_steps=1)


def learning(**attributes):
    def optimize(self, next_operation=None, **kwargs):
        return kwargs

    return type("Leap", (LowerLevelOperator,), {"optimize": optimize, **attributes})


@pytest.mark.parametrize("last", ["RAD", "CG"])
def test_di_with_a_step_of_ones_own(last):
    def twice(options, start, gradient):
        return [y - 2.0 * options.size * g for y, g in zip(start, gradient, strict=True)]

    @dataclass(frozen=True)
    class Options:
        size: float = 0.1

    leap = learning(capabilities=LowerCapabilities(next_start=twice))
    register_operator("gm", like="DI", options=Options)(leap)
    problem = Quadratic()
    trainer = make(problem, gm_op=["Leap", "NGD"], na_op=[last], sections={"Leap": {"size": 0.3}}, ul_lr=0.0)
    y0 = problem.y0
    for _ in range(2):  # the second loop starts where the first step led
        problem.y0 = y0
        y0 = y0 - 0.6 * problem.reference((last,), K=K, lr=LR)[3]
        trainer.fit({}, {}, max_steps=1)
        close(trainer.initialization[0], y0)


def test_di_that_says_nothing_of_itself_has_dis_rate_and_schedule():
    register_operator("gm", like="DI")(learning())
    problem = Quadratic()
    by_start = problem.reference(("RAD",), K=K, lr=LR)[3]
    trainer = make(problem, gm_op=["Leap", "NGD"], sections={"DI": {"lr": 0.5}}, ul_lr=0.0)
    trainer.fit({}, {}, max_steps=1)
    close(trainer.initialization[0], problem.y0 - 0.5 * by_start)
    scheduled = make(problem, gm_op=["Leap", "NGD"], callbacks=[DISchedule(lambda step: 0.25)], ul_lr=0.0)
    scheduled.fit({}, {}, max_steps=1)
    close(scheduled.initialization[0], problem.y0 - 0.25 * by_start)
    with pytest.raises(ValueError, match=r"IAD makes the initialisation .* so Leap cannot learn it too"):
        registry.order_chain(["Leap", "NGD"], ["IAD"])


@pytest.mark.parametrize("last", TERMINALS)
def test_ngd_that_takes_its_steps_itself(last):
    """Half of f: as NGD with half the rate, but for the terminals, which know the rate of the optimizer."""

    @register_operator("gm", like="NGD")
    class Half(LowerLevelOperator):
        def optimize(self, ll_feed_dict, ul_feed_dict, auxiliary_model, next_operation=None, **kwargs):
            def half(model, parameters, step, ll_feed_dict, ul_feed_dict, anchor):
                return 0.5 * problem.f(ll_feed_dict, self.ul_model, self.ll_model)

            auxiliary_model.lower_objective = half
            for step in range(self.lower_loop):
                last_loss = auxiliary_model.advance(
                    lambda model, step=step: half(model, None, step, {}, {}, None), keep_graph=True, with_loss=True
                )
            return {"auxiliary_model": auxiliary_model, "max_loss_iter": 0, "lower_loss": last_loss}

    problem = Quadratic()
    got = make(problem, gm_op=["Half"], na_op=[last], sections=SECTIONS).hypergradient({}, {})
    problem.A, problem.B, problem.c = 0.5 * problem.A, 0.5 * problem.B, 0.5 * problem.c
    close(got.gradients[0], problem.reference((last,), K=K, lr=LR, k=10)[0])


@pytest.mark.parametrize("gm_op", [["Pair"], ["NGD", "Pair"]])
def test_dm_with_a_step_of_ones_own(gm_op, tmp_path):
    @register_operator("gm", like="DM")
    class Pair(LowerLevelOperator):
        """y by a gradient step, v by half of itself and grad_y F, x by grad_x F + v' v / 2 grad_x F."""

        def optimize(
            self, ll_feed_dict, ul_feed_dict, auxiliary_model, multiplier=None, ul_var=(), next_operation=None, **kwargs
        ):
            assert next_operation is None
            y = auxiliary_model.parameters()
            v = multiplier or [jt.zeros_like(p) for p in y]
            with functional.substituted(auxiliary_model.variables, y):
                lower = self.ll_objective(ll_feed_dict, self.ul_model, self.ll_model)
                upper = self.ul_objective(ul_feed_dict, self.ul_model, self.ll_model)
            (by_y,) = jt.grad(lower, y)
            upper_by_x, upper_by_y = jt.grad(upper, [*ul_var, *y])
            found = {
                "hyper_gradient": [(upper_by_x * (1.0 + 0.5 * (v[0] * v[0]).sum())).detach()],
                "ll_parameters": [(y[0] - LR * by_y).detach()],
                "multiplier": [(0.5 * v[0] + upper_by_y).detach()],
            }
            jt.sync([variable for variables in found.values() for variable in variables])
            losses = {"upper_loss": upper.item(), "lower_loss": lower.item()}
            return {**found, **losses, "ul_learning_rate": 0.1, "ll_state": None, "diagnostics": {}}

    problem = Quadratic()
    trainer = make(problem, gm_op=gm_op, callbacks=[ModelCheckpoint(tmp_path, every_n_steps=1)])
    assert not trainer.current_run.method.has_lower_loop
    trainer.fit({}, {}, max_steps=3)
    x, y, v = problem.x0, problem.y0, np.zeros(DIM_Y)
    for _ in range(3):
        dx = problem.upper_by_x(y, x) * (1.0 + 0.5 * v @ v)
        x, y, v = (
            x - 0.1 * dx,
            y - LR * problem.phi_by_y(y, x, 0.0),
            0.5 * v + problem.upper_by_y(y, x),
        )
    for got, exact in ((trainer.ul_var, x), (trainer.ll_var, y), (trainer.auxiliary["multiplier"], v)):
        close(got[0], exact)
    again = make(problem, gm_op=gm_op, callbacks=[ModelCheckpoint(tmp_path, every_n_steps=1)])
    again.fit({}, {}, max_steps=3, resume_from="last")
    np.testing.assert_array_equal(again.auxiliary["multiplier"][0].numpy(), trainer.auxiliary["multiplier"][0].numpy())
    with pytest.raises(ValueError, match="warm_start must be True with gm_op Pair"):
        make(problem, gm_op=gm_op, warm_start=False)
    with pytest.raises(ValueError, match="Pair needs na_op RAD or CG"):
        make(problem, gm_op=gm_op, na_op=["NS"])
