"""What makes a hypergradient zero is refused by name where it can be seen, and told of once where it cannot."""

from jboat.callbacks import LambdaCallback, LRSchedule
import jittor as jt
import numpy as np
from problems import Point, Quadratic
import pytest
from small_trainers import make


def test_one_module_at_both_levels():
    model = Point(np.ones(8))
    with pytest.raises(ValueError, match=r"both levels train ll_model's parameter 'value'.*ul_model Vars of its own"):
        make(ll_model=model, ul_model=model, na_op=["IAD"])


class Shared(Point):
    """A point beside a Var of another module."""

    def __init__(self, value, other):
        super().__init__(value)
        self.other = other


def test_one_var_in_two_models():
    problem = Quadratic()
    ul_model, ll_model = problem.models()
    upper = Shared(problem.x0, ll_model.value)
    with pytest.raises(ValueError, match="both levels train ll_model's parameter 'value'"):
        make(problem=problem, ll_model=ll_model, ul_model=upper)
    both = jt.optim.SGD([ul_model.value, ll_model.value], 0.1)
    with pytest.raises(ValueError, match=r"ul_optimizer holds 1 parameter\(s\) that are not in ul_model"):
        make(problem=problem, ll_model=ll_model, ul_model=ul_model, ul_optimizer=both)


def test_a_var_of_both_models_may_be_trained_by_one_level():
    problem = Quadratic()
    ul_model, _ = problem.models()
    lower = Shared(problem.y0, ul_model.value)
    optimizer = jt.optim.SGD([lower.value], 0.1)
    trainer = make(problem=problem, ll_model=lower, ul_model=ul_model, ll_optimizer=optimizer)
    exact = problem.reference(("RAD",), K=2, lr=0.1)[0]
    np.testing.assert_allclose(trainer.hypergradient({}, {}).gradients[0].numpy(), exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("level", ["ll", "ul"])
def test_eval_before_and_between_fits(level):
    problem = Quadratic()
    ul_model, ll_model = problem.models()
    (ll_model if level == "ll" else ul_model).eval()
    with pytest.raises(ValueError, match=f"as {level}_model.eval\\(\\) leaves them; call {level}_model.train\\(\\)"):
        make(problem=problem, ll_model=ll_model, ul_model=ul_model)

    trainer = make()
    trainer.fit({}, {}, max_steps=1)
    model = getattr(trainer, f"{level}_model")
    model.eval()
    for go_on in (lambda: trainer.fit({}, {}, max_steps=1), lambda: trainer.hypergradient({}, {})):
        with pytest.raises(ValueError, match=f"{level}_model's parameter 'value' is stop_grad.*{level}_model.train"):
            go_on()
    model.train()
    trainer.fit({}, {}, max_steps=1)
    whole = make()
    whole.fit({}, {}, max_steps=2)
    np.testing.assert_equal(trainer.values(), whole.values())


def test_a_parameter_that_was_replaced():
    trainer = make()
    trainer.ul_model.value = jt.array(trainer.ul_model.value.numpy())
    for go_on in (lambda: trainer.fit({}, {}, max_steps=1), lambda: trainer.hypergradient({}, {})):
        with pytest.raises(ValueError, match=r"ul_model's parameter 'value' was replaced .* assign\(\) instead"):
            go_on()
    trainer = make()
    trainer.ul_model.value.assign(jt.array(trainer.ul_model.value.numpy() + 1.0))
    trainer.fit({}, {}, max_steps=1)


@pytest.mark.parametrize("place", ["first", "second"])
def test_one_of_tied_parameters_that_was_replaced(place):
    """The loss would read a Var that nobody trains, whichever of the two places it stands in."""
    problem = Quadratic()
    ul_model, _ = problem.models()
    tied = jt.Module()
    tied.first, tied.second = Point(problem.y0), Point(problem.y0)
    tied.second.value = tied.first.value
    tied.execute = lambda: 0.5 * (tied.first() + tied.second())
    trainer = make(problem=problem, ll_model=tied, ul_model=ul_model)
    trainer.fit({}, {}, max_steps=1)
    getattr(tied, place).value = jt.array(problem.y0)
    with pytest.raises(ValueError, match=r"ll_model's parameter '.*value' was replaced"):
        trainer.fit({}, {}, max_steps=1)


def group_with(model, **numbers):
    return [{"params": list(model.parameters()), **numbers}]


@pytest.mark.parametrize("level", ["ll", "ul"])
def test_vars_as_rates(level):
    problem = Quadratic()
    ul_model, ll_model = problem.models()
    model = ll_model if level == "ll" else ul_model
    rate = ul_model.value.sum().exp()
    cases = {
        f"{level}_optimizer.lr": jt.optim.SGD(list(model.parameters()), rate),
        f"{level}_optimizer.momentum": jt.optim.SGD(list(model.parameters()), 0.1, momentum=rate),
        f"{level}_optimizer.betas": jt.optim.Adam(list(model.parameters()), 0.1, betas=(rate, 0.9)),
        f"{level}_optimizer.param_groups\\[0\\].lr": jt.optim.SGD(group_with(model, lr=rate), 0.1),
    }
    for name, optimizer in cases.items():
        with pytest.raises(TypeError, match=f"{name} is a jt.Var.*give a number"):
            make(problem=problem, ll_model=ll_model, ul_model=ul_model, **{f"{level}_optimizer": optimizer})
    trainer = make()
    getattr(trainer, f"{level}_optimizer").lr = rate
    for go_on in (lambda: trainer.fit({}, {}, max_steps=1), lambda: trainer.hypergradient({}, {})):
        with pytest.raises(TypeError, match=f"{level}_optimizer.lr is a jt.Var"):
            go_on()


class Cut(Quadratic):
    """The quadratic seen through a detached copy of x."""

    def f(self, batch, ul_model, ll_model):
        return super().f(batch, lambda: ul_model().detach(), ll_model)

    def F(self, batch, ul_model, ll_model):
        return super().F(batch, lambda: ul_model().detach(), ll_model)


class OnlyThroughY(Quadratic):
    """Its upper objective depends on x through y alone."""

    def F(self, batch, ul_model, ll_model):
        return super().F(batch, lambda: ul_model().detach(), ll_model)


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if "exactly zero" in r.getMessage()]


def test_the_first_zero_is_told_once_with_likely_causes(caplog):
    trainer = make(problem=Cut())
    trainer.fit({}, {}, max_steps=3)
    trainer.fit({}, {}, max_steps=1)
    (message,) = warnings(caplog)
    assert message.startswith("the hypergradient of outer step 1 is exactly zero, so that x does not move.")
    assert all(cause in message for cause in ("detach", "stop_grad", "no_grad", "a lower learning rate of 0"))
    assert np.array_equal(trainer.ul_var[0].numpy(), Cut().x0.astype("float32"))


def test_hypergradient_tells_it_too(caplog):
    trainer = make(problem=Cut())
    trainer.hypergradient({}, {})
    trainer.hypergradient({}, {})
    assert len(warnings(caplog)) == 1


def test_a_rate_that_falls_to_zero_is_a_cause(caplog):
    schedule = LRSchedule(lambda step: 0.1 if step < 2 else 0.0, level="lower")
    make(problem=OnlyThroughY(), callbacks=[schedule]).fit({}, {}, max_steps=4)
    (message,) = warnings(caplog)
    assert "of outer step 3" in message


def test_what_is_small_or_zero_for_a_reason_is_not_told(caplog):
    make().fit({}, {}, max_steps=2)

    def shrink(trainer, state, result):
        result.gradients = [jt.array(np.full(g.shape, 1e-30, "float32")) for g in result.gradients]

    make(callbacks=[LambdaCallback(on_before_upper_step=shrink)]).fit({}, {}, max_steps=1)

    history = make(problem=OnlyThroughY(), gm_op=["DM"]).fit({}, {}, max_steps=2)  # the multiplier starts at zero
    assert history["hypergradient_norm"][0] == 0.0
    assert history["hypergradient_norm"][1] > 0.0
    assert warnings(caplog) == []


def test_a_method_that_leaves_out_what_is_asked_for_says_so(caplog):
    make(problem=OnlyThroughY(), fo_op="ALTO").fit({}, {}, max_steps=1)
    assert "ALTO takes grad_x F alone" in warnings(caplog)[0]
