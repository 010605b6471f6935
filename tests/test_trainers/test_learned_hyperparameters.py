"""The lower optimizer's numbers as functions of the upper model, against finite differences in float64."""

from jboat import BilevelTrainer
from jboat.callbacks import HypergradientCheck, LowerGradientNorm
from jboat.optim import Rule, register_rule
from jboat.projections import box
import jittor as jt
import numpy as np
from numpy_optimizers import CASES
from problems import Classifier, Quadratic
import pytest

K = 5
PROBLEM = Quadratic()
OWN = {
    "sgd": {"lr": 0.07},
    "momentum": {"lr": 0.07, "momentum": 0.8},
    "nesterov": {"lr": 0.04, "momentum": 0.7},
    "decay": {"lr": 0.08, "momentum": 0.6, "weight_decay": 0.2},
    "rmsprop": {"lr": 0.04},
    "adam": {"lr": 0.07, "weight_decay": 0.2, "betas": (0.8, 0.95)},
    "adamw": {"lr": 0.07, "weight_decay": 0.2, "betas": (0.8, 0.95)},
    "adan": {"lr": 0.07, "weight_decay": 0.2, "betas": (0.9, 0.85, 0.95)},
    "adan clipped": {"lr": 0.07, "betas": (0.9, 0.85, 0.95)},
}
"""What is learned of each optimizer, and where it starts; not what the optimizer itself has."""


def flat(numbers):
    return np.concatenate([np.ravel(v) for v in numbers.values()])


def unflat(name, vector):
    found, begin = {}, 0
    for key, value in OWN[name].items():
        size = np.size(value)
        found[key] = tuple(vector[begin : begin + size]) if key == "betas" else float(vector[begin])
        begin += size
    return found


class Settings(jt.Module):
    """x and the numbers themselves, in one vector each."""

    def __init__(self, name, x):
        self.value = jt.array(x.astype("float32"))
        self.numbers = jt.array(flat(OWN[name]).astype("float32"))

    def execute(self):
        return self.value


def functions(name):
    found, begin = {}, 0
    for key, value in OWN[name].items():
        size = np.size(value)
        found[key] = lambda model, b=begin, e=begin + size: model.numbers[b:e]
        begin += size
    return found


def trainer_of(name, na_op=("RAD",), sections=None, **kwargs):
    cls, _, hyper = CASES[name]
    ul_model, ll_model = Settings(name, PROBLEM.x0), PROBLEM.models()[1]
    return BilevelTrainer(
        ll_model,
        ul_model,
        PROBLEM.f,
        PROBLEM.F,
        ll_optimizer=cls(list(ll_model.parameters()), **hyper),
        ul_optimizer=jt.optim.SGD(list(ul_model.parameters()), 0.001),
        na_op=na_op,
        lower_iters=K,
        solver_config=sections,
        **{"ll_hyperparameters": functions(name), **kwargs},
    )


def unrolled(name, x, own, first=0, start=None):
    """y_K with the learned numbers from the step ``first`` on, x in all steps from there, and what is before it."""
    _, reference, hyper = CASES[name]
    y, state = (PROBLEM.y0, {}) if start is None else start
    for n in range(first + 1, K + 1):
        y, state = reference(y, PROBLEM.phi_by_y(y, x, 0.0), state, n, **{**hyper, **own})
    return y


def start_at(name, steps):
    _, reference, hyper = CASES[name]
    y, state = PROBLEM.y0, {}
    for n in range(1, steps + 1):
        y, state = reference(y, PROBLEM.phi_by_y(y, PROBLEM.x0, 0.0), state, n, **{**hyper, **OWN[name]})
    return y, state


def exact(name, first=0):
    at = np.concatenate([PROBLEM.x0, flat(OWN[name])])
    count, start = len(PROBLEM.x0), start_at(name, first)

    def value(z):
        return PROBLEM.upper(unrolled(name, z[:count], unflat(name, z[count:]), first, start), z[:count])

    return np.array([(value(at + e) - value(at - e)) / 2e-6 for e in 1e-6 * np.eye(len(at))])


CHAINS = {
    "RAD": (("RAD",), {}, 0),
    "replayed": (("RAD",), {"RAD": {"remat_every": 2}}, 0),
    "RGT": (("RGT", "RAD"), {"RGT": {"truncate_iter": 3}}, 3),
    "FD": (("FD",), {"FD": {"through_optimizer": True}}, K - 1),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("chain", CHAINS)
def test_the_hypergradient_equals_finite_differences(name, chain):
    na_op, sections, first = CHAINS[chain]
    trainer = trainer_of(name, na_op, sections)
    result = trainer.hypergradient({}, {})
    np.testing.assert_allclose(
        result.ll_parameters[0].numpy(), unrolled(name, PROBLEM.x0, OWN[name]), rtol=2e-4, atol=2e-5
    )
    got = np.concatenate([g.numpy() for g in result.gradients])
    wanted = exact(name, first)
    assert np.linalg.norm(got - wanted) < 1e-3 * np.linalg.norm(wanted)
    count = len(PROBLEM.x0)
    assert np.linalg.norm(got[count:] - wanted[count:]) < 2e-3 * np.linalg.norm(wanted[count:])
    for key, value in OWN[name].items():
        if key != "betas":
            assert result.diagnostics[f"ll_{key}"] == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("as_list", [False, True])
def test_one_rate_and_decay_per_variable(as_list):
    problem = Classifier(hidden=5)
    rates, decays = np.array([0.3, 0.2, 0.5, 0.1]), np.array([0.1, 0.0, 0.05, 0.2])

    class PerVariable(jt.Module):
        def __init__(self):
            self.log_rates = jt.array(np.log(rates).astype("float32"))
            self.decays = jt.array(decays.astype("float32"))

    ul_model, ll_model = PerVariable(), problem.models()[1]

    def lr(model):
        found = model.log_rates.exp()
        return [found[i] for i in range(4)] if as_list else found

    trainer = BilevelTrainer(
        ll_model,
        ul_model,
        lambda batch, ul, ll: problem.F(batch, ul, ll),
        problem.F,
        ll_optimizer=jt.optim.SGD(ll_model.parameters(), 9.0),
        ul_optimizer=jt.optim.SGD(ul_model.parameters(), 0.1),
        lower_iters=4,
        ll_hyperparameters={"lr": lr, "weight_decay": lambda model: model.decays},
    )
    result = trainer.hypergradient(*problem.batches())

    def value(z):
        def update(params, grads, state, step):
            moved = zip(params, grads, np.exp(z[:4]), z[4:], strict=True)
            return [p - rate * (g + decay * p) for p, g, rate, decay in moved], None

        ones = 50.0 * np.ones(problem.SAMPLES)  # weights of 1
        return problem.unrolled(ones, 4, update)

    at = np.concatenate([np.log(rates), decays])
    wanted = np.array([(value(at + e) - value(at - e)) / 2e-6 for e in 1e-6 * np.eye(8)])
    got = np.concatenate([g.numpy() for g in result.gradients])
    np.testing.assert_allclose(got, wanted, rtol=2e-3, atol=1e-6)


def test_a_resumed_run_is_bit_identical_and_a_checkpoint_knows_what_is_learned(tmp_path):
    straight, stopped, resumed = (trainer_of("adam", ll_optimizer_state="carry") for _ in range(3))
    straight.fit({}, {}, max_steps=4)
    stopped.fit({}, {}, max_steps=2)
    stopped.save_checkpoint(tmp_path / "two.npz")
    resumed.fit({}, {}, max_steps=4, resume_from=tmp_path / "two.npz")
    for a, b in zip([*straight.ll_var, *straight.ul_var], [*resumed.ll_var, *resumed.ul_var], strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert straight.history["ll_lr"][0] == pytest.approx(0.07, rel=1e-5)
    assert len(set(straight.history["ll_lr"])) == 4
    with pytest.raises(ValueError, match="ll_hyperparameters"):
        trainer_of("adam", ll_hyperparameters=None).load_checkpoint(tmp_path / "two.npz")


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"na_op": ["CG"]}, "CG does not see them"),
        ({"na_op": ["CG"], "sections": {"CG": {"through_optimizer": True}}}, "CG does not see them"),
        ({"na_op": ["NS"]}, "NS does not see them"),
        ({"na_op": ["NYS"]}, "NYS does not see them"),
        ({"na_op": ["IGA"]}, "IGA does not see it"),
        ({"na_op": ["FD"]}, r"FD does not see it.*set solver_config\['FD'\]\['through_optimizer'\] = True"),
        ({"gm_op": ["DM"]}, "DM does not see it"),
        ({"fo_op": "ALTO"}, "ALTO does not see them"),
        ({"sl_op": "SOBA"}, "SOBA does not see them"),
    ],
    ids=str,
)
def test_methods_that_do_not_see_them_are_named(kwargs, said):
    with pytest.raises(ValueError, match="ll_hyperparameters: " + said):
        trainer_of("sgd", **kwargs)


def test_maml_has_no_place_for_them():
    problem = Quadratic(same_dims=True)
    ul_model, ll_model = problem.models()
    with pytest.raises(ValueError, match="ll_hyperparameters: IAD does not see them"):
        BilevelTrainer(
            ll_model,
            ul_model,
            problem.f,
            problem.F,
            ll_optimizer=jt.optim.SGD(list(ll_model.parameters()), 0.1),
            ul_optimizer=jt.optim.SGD(list(ul_model.parameters()), 0.1),
            na_op=["IAD"],
            ll_hyperparameters={"lr": lambda model: model().sum()},
        )


@pytest.mark.parametrize(
    ("name", "given", "error", "said"),
    [
        ("sgd", {"rate": lambda m: m.numbers}, ValueError, "has no 'rate' with SGD; it may have lr, momentum, weight"),
        ("sgd", {"betas": lambda m: m.numbers}, ValueError, "has no 'betas' with SGD"),
        ("rmsprop", {"weight_decay": lambda m: m.numbers}, ValueError, "has no 'weight_decay' with RMSprop"),
        ("sgd", {"momentum": lambda m: m.numbers}, ValueError, "SGD keeps no velocity where its own momentum is 0"),
        ("sgd", {"lr": 0.1}, TypeError, r"\['lr'\] must be a function of the upper model, got 0.1"),
        ("sgd", [0.1], TypeError, "must be a dict of functions of the upper model, got list"),
    ],
    ids=lambda v: None if isinstance(v, dict) else str(v),
)
def test_what_cannot_be_learned_is_refused(name, given, error, said):
    with pytest.raises(error, match="ll_hyperparameters.*" + said):
        trainer_of(name, ll_hyperparameters=given)


@pytest.mark.parametrize(
    ("name", "given", "error", "said"),
    [
        ("sgd", {"lr": lambda m: 0.1}, TypeError, r"\['lr'\] must return Vars, got float, which has no gradient"),
        (
            "sgd",
            {"lr": lambda m: m.value},
            ValueError,
            r"\['lr'\] must return 1 number, .* shapes \[\[5\]\]",
        ),
        ("sgd", {"lr": lambda m: [m.numbers, m.numbers]}, ValueError, "a list with one for each of the 1 lower-level"),
        ("adam", {"betas": lambda m: m.numbers[:1]}, ValueError, r"\['betas'\] must return 2 numbers"),
    ],
    ids=lambda v: None if isinstance(v, dict) else str(v),
)
def test_a_function_that_returns_something_else_is_refused_before_a_step(name, given, error, said):
    trainer = trainer_of(name, ll_hyperparameters=given)
    before = trainer.ll_var[0].numpy()
    with pytest.raises(error, match="ll_hyperparameters" + said if said[0] == "\\" else said):
        trainer.fit({}, {}, max_steps=1)
    np.testing.assert_array_equal(trainer.ll_var[0].numpy(), before)


@pytest.mark.parametrize(
    ("name", "given", "error", "said"),
    [
        (
            "sgd",
            {"lr": lambda m: m.numbers - 0.0701},
            ValueError,
            r"\['lr'\] is -0.0001.* outer step 1; .* number >= 0",
        ),
        ("sgd", {"lr": lambda m: m.numbers / (0.0 * m.numbers)}, ArithmeticError, r"\['lr'\] is inf at outer step 1"),
        (
            "adam",
            {"betas": lambda m: (m.numbers[0], m.numbers[1] + 1.0)},
            ValueError,
            r"\['betas'\] is 1.2 at outer step",
        ),
        ("decay", {"momentum": lambda m: m.numbers[1] + 0.5}, ValueError, r"\['momentum'\] is 1.1 .* in \[0, 1\)"),
        ("decay", {"weight_decay": lambda m: -m.numbers[2]}, ValueError, r"\['weight_decay'\] is -0.2 at outer step 1"),
    ],
    ids=lambda v: None if isinstance(v, dict) else str(v),
)
def test_a_number_out_of_range_is_named_with_its_step(name, given, error, said):
    trainer = trainer_of(name, ll_hyperparameters=given)
    with pytest.raises(error, match="ll_hyperparameters" + said):
        trainer.fit({}, {}, max_steps=1)
    with pytest.raises(error, match="ll_hyperparameters" + said):
        trainer.hypergradient({}, {})


def test_a_rate_that_becomes_negative_stops_the_run_at_its_step():
    trainer = trainer_of("sgd", ll_hyperparameters={"lr": lambda m: m.numbers})
    trainer.ul_optimizer.lr = 0.05
    with pytest.raises(ValueError, match=r"\['lr'\] is -.* at outer step [2-9]"):
        trainer.fit({}, {}, max_steps=20)
    assert trainer.state.step >= 1


def test_the_lower_gradient_is_that_with_the_learned_decay():
    trainer = trainer_of("decay", callbacks=[LowerGradientNorm()])
    trainer.ul_optimizer.lr = 0.0
    trainer.fit({}, {}, max_steps=1)
    y = unrolled("decay", PROBLEM.x0, OWN["decay"])
    gradient = PROBLEM.phi_by_y(y, PROBLEM.x0, 0.0) + OWN["decay"]["weight_decay"] * y
    assert trainer.history["lower_gradient_norm"][0] == pytest.approx(np.linalg.norm(gradient), rel=1e-4)


def test_the_check_while_training_finds_the_hypergradient_right():
    trainer = trainer_of("adam", callbacks=[HypergradientCheck(1)], ll_projection=box(-2.0, 2.0))
    trainer.ul_optimizer.lr = 1e-5
    trainer.fit({}, {}, max_steps=1)
    assert trainer.history["hypergradient_verdict"] == [1.0]


def test_nothing_is_compiled_after_the_first_steps(loaded_kernels):
    trainer = trainer_of("adam")
    trainer.ul_optimizer.lr = 1e-6
    trainer.fit({}, {}, max_steps=3)
    loaded_kernels.restart()
    trainer.fit({}, {}, max_steps=3)
    assert loaded_kernels.new() == []


def test_a_rule_of_ones_own_is_given_them():
    class Own(jt.optim.SGD):
        pass

    @register_rule(Own)
    class OwnRule(Rule):
        def update(self, p, g, slots, step, h):
            return p - h["lr"] * g, ()

    ll_model, ul_model = PROBLEM.models()[1], Settings("sgd", PROBLEM.x0)
    trainer = BilevelTrainer(
        ll_model,
        ul_model,
        PROBLEM.f,
        PROBLEM.F,
        ll_optimizer=Own(list(ll_model.parameters()), 0.1),
        ul_optimizer=jt.optim.SGD(list(ul_model.parameters()), 0.1),
        lower_iters=K,
        ll_hyperparameters=functions("sgd"),
    )
    got = np.concatenate([g.numpy() for g in trainer.hypergradient({}, {}).gradients])
    np.testing.assert_allclose(got, exact("sgd"), rtol=1e-3, atol=1e-4)


def twice_the_first(model):
    return 2.0 * model.numbers[:1]


def test_a_configuration_file_names_the_functions():
    ll_model, ul_model = PROBLEM.models()[1], Settings("sgd", PROBLEM.x0)
    objects = {
        "ll_model": ll_model,
        "ul_model": ul_model,
        "ll_objective": PROBLEM.f,
        "ul_objective": PROBLEM.F,
        "ll_optimizer": jt.optim.SGD(list(ll_model.parameters()), 0.1),
        "ul_optimizer": jt.optim.SGD(list(ul_model.parameters()), 0.1),
    }
    config = {"ll_hyperparameters": {"lr": f"{__name__}:twice_the_first"}}
    trainer = BilevelTrainer.from_config(config, **objects)
    assert trainer.hypergradient({}, {}).diagnostics["ll_lr"] == pytest.approx(0.14, rel=1e-5)
    with pytest.raises(ValueError, match="nowhere"):
        BilevelTrainer.from_config({"ll_hyperparameters": {"lr": "nowhere:at_all"}}, **objects)
