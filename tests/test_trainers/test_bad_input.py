"""Errors name the argument, what was given and what is allowed, before any kernel is compiled."""

import inspect
import math

from jboat import BilevelTrainer, NonFiniteError
from jboat.callbacks import LambdaCallback
import jittor as jt
import numpy as np
from problems import Point, Quadratic
import pytest

PROBLEM = Quadratic()
NAN = math.nan


def make(**changes):
    problem = changes.pop("problem", PROBLEM)
    ul_model, ll_model = problem.models()
    arguments = {
        "ll_model": ll_model,
        "ul_model": ul_model,
        "ll_objective": problem.f,
        "ul_objective": problem.F,
        "ll_optimizer": jt.optim.SGD(list(ll_model.parameters()), 0.1),
        "ul_optimizer": jt.optim.SGD(list(ul_model.parameters()), 0.1),
        "lower_iters": 4,
    }
    return BilevelTrainer(**{**arguments, **changes})


class Other(jt.optim.SGD):
    pass


BAD_ARGUMENTS = [
    ({"na_op": ["RADD"]}, ValueError, r"na_op: unknown operator 'RADD'; valid are PTT.*Did you mean 'RAD'"),
    ({"gm_op": ["NGD", "NGD"]}, ValueError, r"gm_op: operator 'NGD' is repeated"),
    ({"na_op": ["RAD", "CG"]}, ValueError, r"na_op \['RAD', 'CG'\] is not a chain; valid chains are"),
    ({"na_op": ["PTT"]}, ValueError, r"is not a chain; valid chains are PTT\+RAD"),
    ({"na_op": []}, ValueError, r"na_op \[\] is not a chain"),
    ({"gm_op": ["GDA"]}, ValueError, r"gm_op \['GDA'\] is not a chain; valid chains are GDA\+NGD"),
    ({"na_op": "RAD"}, TypeError, r"na_op must be a list of operator names, got 'RAD'"),
    ({"gm_op": ["DI", "NGD"], "na_op": ["IAD"]}, ValueError, r"DI.*IAD.*drop one"),
    ({"na_op": ["RGT", "RAD"]}, ValueError, r"truncate_iter'\] must lie in 1\.\.3.*got 0"),
    (
        {"na_op": ["RGT", "RAD"], "solver_config": {"RGT": {"truncate_iter": 4}}},
        ValueError,
        r"truncate_iter'\] must lie in 1\.\.3.*got 4",
    ),
    ({"lower_iters": 0}, ValueError, r"lower_iters must be at least 1, got 0"),
    ({"lower_iters": 2.5}, TypeError, r"lower_iters must be an integer >= 1, got 2\.5"),
    ({"accumulate": 0}, ValueError, r"accumulate must be at least 1, got 0"),
    (
        {"solver_config": {"GDA": {"alpha_init": 1.0}}},
        ValueError,
        r"alpha_init'\] must lie strictly in \(0, 1\), got 1",
    ),
    ({"solver_config": {"GDA": {"alpha_init": 0}}}, ValueError, r"alpha_init'\] must lie strictly in \(0, 1\), got 0"),
    ({"solver_config": {"GDA": {"alpha_decay": 1.5}}}, ValueError, r"alpha_decay'\] must lie in \(0, 1\], got 1\.5"),
    ({"solver_config": {"CG": {"kk": 3}}}, ValueError, r"solver_config\['CG'\] has no key 'kk'; .*Did you mean 'k'"),
    ({"solver_config": {"CGG": {}}}, ValueError, r"solver_config has no section 'CGG'.*Did you mean 'CG'"),
    ({"solver_config": {"CG": 3}}, TypeError, r"solver_config\['CG'\] must be a dict, got int"),
    ({"solver_config": {"CG": {"k": 0}}}, ValueError, r"k of CG and NS must be an integer >= 1, got 0"),
    ({"solver_config": {"FD": {"r": 0.0}}}, ValueError, r"'r'\] must be positive, got 0"),
    ({"solver_config": {"DI": {"lr": -1}}}, ValueError, r"'lr'\] must be at least 0, got -1"),
    ({"solver_config": {"IAD": {"proximal": 0}}}, ValueError, r"'proximal'\] must be positive, got 0"),
    ({"solver_config": {"RAD": {"remat_every": -1}}}, ValueError, r"remat_every'\] must be an integer >= 0, got -1"),
    ({"lower_batches": "frsh"}, ValueError, r"lower_batches must be one of 'shared', 'fresh'.*Did you mean 'fresh'"),
    ({"ll_optimizer_state": "keep"}, ValueError, r"ll_optimizer_state must be one of 'reset', 'carry', got 'keep'"),
    ({"device": "gpu"}, ValueError, r"device must be one of 'auto', 'cpu', 'cuda', got 'gpu'"),
    ({"fo_op": "NOPE"}, ValueError, r"fo_op must be one of"),
    ({"ll_model": 3}, TypeError, r"ll_model must be a jittor Module, got int"),
    ({"ul_optimizer": 3}, TypeError, r"ul_optimizer must be a jittor optimizer such as jt\.optim\.SGD, got int"),
    ({"ll_optimizer": None, "ul_optimizer": None}, TypeError, r"ll_optimizer must be.*configure_optimizers"),
    ({"ll_objective": None}, TypeError, r"ll_objective is missing: pass it to the constructor, or override"),
    ({"ul_var": []}, ValueError, r"ul_var is empty; it must hold at least one Var"),
    ({"ul_var": [jt.array([1, 2])]}, TypeError, r"ul_var\[0\] has dtype int32; only floating-point"),
    ({"ul_var": 3}, TypeError, r"ul_var must be a list of Vars, got int"),
    ({"ll_var": ["y"]}, TypeError, r"ll_var\[0\] must be a jt\.Var, got str"),
    ({"callbacks": [print]}, TypeError, r"callbacks must hold jboat\.callbacks\.Callback objects"),
]


@pytest.mark.parametrize(("changes", "error", "message"), BAD_ARGUMENTS, ids=lambda v: str(v)[:60])
def test_constructor(changes, error, message, loaded_kernels):
    with pytest.raises(error, match=message):
        make(**changes)
    assert loaded_kernels.new(pending=False) == []


def test_optimizers_of_other_models(loaded_kernels):
    stranger = Point(np.ones(3))
    with pytest.raises(ValueError, match=r"ll_optimizer holds none of ll_model's trainable parameters"):
        make(ll_optimizer=jt.optim.SGD(list(stranger.parameters()), 0.1))
    ul_model, ll_model = PROBLEM.models()
    both = jt.optim.SGD([*ul_model.parameters(), *stranger.parameters()], 0.1)
    with pytest.raises(ValueError, match=r"ul_optimizer holds 1 parameter\(s\) that are not in ul_model"):
        make(ul_model=ul_model, ul_optimizer=both)
    with pytest.raises(ValueError, match=r"ul_optimizer does not hold every entry of ul_var"):
        make(ul_var=list(stranger.parameters()))
    (y,) = ll_model.parameters()
    with pytest.raises(ValueError, match=r"ll_var names the same Var twice"):
        make(ll_model=ll_model, ll_optimizer=jt.optim.SGD([y], 0.1), ll_var=[y, y])
    assert loaded_kernels.new(pending=False) == []


def test_unsupported_lower_optimizer(loaded_kernels):
    _, ll_model = PROBLEM.models()
    with pytest.raises(
        TypeError, match=r"no differentiable rule for optimizer Other; supported are Adam, AdamW, Adan, RMSprop, SGD"
    ):
        make(ll_model=ll_model, ll_optimizer=Other(list(ll_model.parameters()), 0.1))
    assert loaded_kernels.new(pending=False) == []


def test_iad_needs_models_of_equal_structure(loaded_kernels):
    with pytest.raises(ValueError, match=r"IAD needs ul_model and ll_model of equal structure.*\[8\].*\[5\]"):
        make(na_op=["IAD"])
    assert loaded_kernels.new(pending=False) == []


BAD_LOADERS = [
    ([], ValueError, r"ll_loader is empty; it must give at least one batch"),
    (lambda: iter(()), ValueError, r"ll_loader gave no batch in pass 1"),
    (3, TypeError, r"ll_loader must be a loader, got int; a batch is a dict"),
    ("abc", TypeError, r"ll_loader must be a loader, got str"),
    ([3], TypeError, r"ll_loader gave a batch of type int; a batch is a dict, or an \(x, y\) pair"),
    (np.ones(3), TypeError, r"ll_loader must be a loader, got ndarray"),
    ((np.ones(3), np.ones(3)), TypeError, r"ll_loader is an \(x, y\) pair; write"),
    (lambda: 3, TypeError, r"ll_loader\(\) returned int"),
    ([[{}, {}]], ValueError, r"both loaders must give the same number of tasks"),
]


@pytest.mark.parametrize(
    ("loader", "error", "message"), BAD_LOADERS, ids=lambda v: None if inspect.isfunction(v) else str(v)[:40]
)
def test_loaders(loader, error, message, loaded_kernels):
    trainer = make()
    with pytest.raises(error, match=message):
        trainer.fit(loader, {})
    assert loaded_kernels.new(pending=False) == []


def test_a_generator_is_used_up_after_one_pass():
    trainer = make()
    with pytest.raises(ValueError, match=r"ll_loader gave no batch in pass 2.*give the function that makes it"):
        trainer.fit((batch for batch in [{}]), {}, max_epochs=2)


@pytest.mark.parametrize(
    ("limits", "error", "message"),
    [
        ({"max_steps": 0}, ValueError, "max_steps must be at least 1, got 0"),
        ({"max_epochs": 1.5}, TypeError, r"max_epochs must be an integer >= 1, got 1\.5"),
        ({"max_time": 0}, ValueError, "max_time must be positive seconds, got 0"),
        ({"val_every": 2}, ValueError, "val_every needs val_loader"),
        ({"val_loader": 3}, TypeError, "val_loader must be a loader"),
    ],
)
def test_limits(limits, error, message):
    with pytest.raises(error, match=message):
        make().fit({}, {}, **limits)


@pytest.mark.parametrize("level", ["ll_objective", "ul_objective"])
def test_objectives_must_return_a_scalar(level, loaded_kernels):
    def vector(batch, ul_model, ll_model):
        return ll_model() * 2.0

    def number(batch, ul_model, ll_model):
        return 3.0

    with pytest.raises(ValueError, match=r"vector must return a scalar, got shape \[8\]; take its mean\(\) or sum\(\)"):
        make(**{level: vector}).fit({}, {})
    with pytest.raises(TypeError, match=r"number must return a scalar jt\.Var, got float"):
        make(**{level: number}).fit({}, {})
    assert loaded_kernels.new(pending=False) == []


class Exploding(Quadratic):
    """f or F times a number that becomes NaN or infinite at a chosen call."""

    def __init__(self, level, call, value):
        super().__init__()
        self.level, self.call, self.calls, self.value = level, call, 0, value

    def factor(self, level):
        if level != self.level:
            return 1.0
        self.calls += 1
        return self.value if self.calls == self.call else 1.0

    def f(self, batch, ul_model, ll_model):
        return super().f(batch, ul_model, ll_model) * self.factor("f")

    def F(self, batch, ul_model, ll_model):
        return super().F(batch, ul_model, ll_model) * self.factor("F")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("inner_step", "what"), [(3, "the lower-level variables are not finite"), (4, "the lower loss is (nan|-inf)")]
)
def test_a_nan_in_the_lower_loss_stops_with_the_place(value, inner_step, what):
    trainer = make(problem=Exploding("f", 1 + 4 + inner_step, value))  # one call checks, four are step 1
    with pytest.raises(NonFiniteError, match=f"NGD: {what} at outer step 2, inner step {inner_step}") as caught:
        trainer.fit({}, {}, max_steps=3, check_second_order=False)
    assert (caught.value.operator, caught.value.step, caught.value.inner_step) == ("NGD", 2, inner_step)
    assert trainer.state.step == 1
    assert np.isfinite(trainer.ul_var[0].numpy()).all()


@pytest.mark.parametrize("lower_iters", [1, 4])
def test_a_nan_that_the_lower_optimizer_makes_is_found(lower_iters):
    spoil = LambdaCallback("spoil", on_step_start=lambda t, s: setattr(t.ll_optimizer, "lr", NAN))
    trainer = make(lower_iters=lower_iters, callbacks=[spoil])
    with pytest.raises(NonFiniteError, match=r"NGD: .* variables are not finite at outer step 1, inner step 1"):
        trainer.fit({}, {})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_nan_in_the_upper_loss_stops_with_the_operator(value):
    trainer = make(problem=Exploding("F", 1 + 2, value), na_op=["CG"])
    with pytest.raises(NonFiniteError, match=r"CG: the upper loss is .* at outer step 2"):
        trainer.fit({}, {}, max_steps=3)
    assert trainer.state.step == 1


def test_a_nan_in_the_hypergradient_alone_stops():
    class Kinked(Quadratic):
        def F(self, batch, ul_model, ll_model):
            x = ul_model()
            return super().F(batch, ul_model, ll_model) + jt.sqrt((x - x.detach()).abs()).sum()

    trainer = make(problem=Kinked())
    with pytest.raises(NonFiniteError, match="RAD: the hypergradient is not finite at outer step 1"):
        trainer.fit({}, {})
    np.testing.assert_allclose(trainer.ul_var[0].numpy(), PROBLEM.x0, rtol=1e-6)


ADAM, ADAN, SGD = jt.optim.Adam, jt.optim.Adan, jt.optim.SGD
BAD_SETTINGS = [
    (ADAM, {"betas": (0.9,)}, TypeError, r"\.betas must be 2 numbers, got \(0\.9,\)"),
    (ADAM, {"betas": 0.9}, TypeError, r"\.betas must be 2 numbers, got 0\.9"),
    (ADAM, {"betas": ("a", "b")}, TypeError, r"\.betas must be 2 numbers"),
    (ADAN, {"betas": (0.9, 0.99)}, TypeError, r"\.betas must be 3 numbers"),
    (ADAM, {"betas": (0.9, 1.0)}, ValueError, r"\.betas must be numbers in \[0, 1\), got \(0\.9, 1\.0\)"),
    (ADAM, {"betas": (0.9, NAN)}, ValueError, r"\.betas must be numbers in \[0, 1\)"),
    (SGD, {"lr": -0.1}, ValueError, r"\.lr must be a finite number >= 0, got -0\.1"),
    (SGD, {"lr": NAN}, ValueError, r"\.lr must be a finite number >= 0, got nan"),
    (SGD, {"lr": "0.1"}, TypeError, r"\.lr must be a number, got '0\.1'"),
    (SGD, {"lr": 0.1, "momentum": None}, TypeError, r"\.momentum must be a number, got None"),
    (ADAM, {"eps": math.inf}, ValueError, r"\.eps must be a finite number, got inf"),
]


@pytest.mark.parametrize("level", ["ll", "ul"])
@pytest.mark.parametrize(("cls", "settings", "error", "message"), BAD_SETTINGS)
def test_settings_that_an_optimizers_step_cannot_use(cls, settings, error, message, level):
    ul_model, ll_model = PROBLEM.models()
    model = {"ll": ll_model, "ul": ul_model}[level]
    optimizer = cls(list(model.parameters()), **{"lr": 0.1, **settings})
    other = {f"{name}_optimizer": SGD(list(m.parameters()), 0.1) for name, m in (("ll", ll_model), ("ul", ul_model))}
    with pytest.raises(error, match=rf"{level}_optimizer{message}"):
        make(ll_model=ll_model, ul_model=ul_model, **{**other, f"{level}_optimizer": optimizer})


def test_settings_of_a_group_are_looked_at_when_fit_starts():
    trainer = make()
    trainer.ul_optimizer.param_groups[0]["lr"] = -1.0
    with pytest.raises(ValueError, match=r"ul_optimizer\.param_groups\[0\]\.lr must be a finite number >= 0, got -1"):
        trainer.fit({}, {}, max_steps=1)


@pytest.mark.parametrize("betas", [[0.9, 0.999], np.array([0.9, 0.999]), (np.float32(0.9), 0.999)])
def test_any_two_numbers_are_betas(betas):
    ul_model, ll_model = PROBLEM.models()
    upper = jt.optim.Adam(list(ul_model.parameters()), 0.0, betas=betas)
    lower = jt.optim.Adam(list(ll_model.parameters()), np.float64(0.1), betas=betas)
    trainer = make(ll_model=ll_model, ul_model=ul_model, ll_optimizer=lower, ul_optimizer=upper)
    assert trainer.fit({}, {}, max_steps=1)["step"] == [1]
