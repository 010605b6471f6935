"""Models that compare as they like, have no hash, or have hooks, in objectives with ``params`` and without."""

from dataclasses import dataclass

from jboat import levels
import jittor as jt
import numpy as np
from problems import Point, Quadratic
import pytest
from small_trainers import make


@dataclass
class Dataclass(jt.Module):  # which has no hash, and compares Vars
    value: jt.Var

    def execute(self):
        return self.value


class Refusing(Point):
    __hash__ = None

    def __eq__(self, other):
        raise AssertionError("two models were compared")

    def __bool__(self):
        raise AssertionError("a model was asked whether it is true")


@pytest.mark.parametrize("odd", [Dataclass, Refusing])
@pytest.mark.parametrize("chain", [["RAD"], ["CG"], ["FD"]])
def test_models_without_a_hash(odd, chain):
    def trainer(made):
        problem = Quadratic()
        models = [made(model.value) for model in problem.models()]
        return make(problem=problem, ul_model=models[0], ll_model=models[1], na_op=chain)

    (wanted,) = trainer(lambda value: Point(value.numpy())).hypergradient({}, {}).gradients
    odd_one = trainer(lambda value: odd(value) if odd is Dataclass else odd(value.numpy()))
    (found,) = odd_one.hypergradient({}, {}).gradients
    np.testing.assert_array_equal(found.numpy(), wanted.numpy())
    odd_one.fit({}, {}, max_steps=1, val_loader={})


def test_two_models_that_are_equal_keep_their_variables_apart():
    class Equal(Point):
        def __hash__(self):
            return 1

        def __eq__(self, other):
            return True

    models = [Equal([1.0]), Equal([2.0])]
    for model in models:
        levels.upper_variables_are([model.value], model)
    assert [levels._upper_variables(model)[0] is model.value for model in models] == [True, True]
    keys = [id(model) for model in models]
    del models, model
    assert not any(key in levels._named for key in keys)


def test_hooks_of_a_model_that_is_called_with_params():
    class Hooked(Point):  # a class of its own, since Jittor changes the class of a module with hooks
        def execute(self, scale):
            return scale * self.value

    model, seen = Hooked([1.0, 2.0]), []

    def before(module, inputs):
        seen.append((module is model, inputs))

    def after(module, inputs, output):
        return output + 10.0

    model.register_pre_forward_hook(before)
    model.register_forward_hook(after)

    def objective(batch, ul_model, ll_model, params):
        at_other = ll_model(3.0, params=[jt.array([5.0, 7.0])])
        return (ll_model(2.0, params=params) + at_other).sum()

    loss = levels.call(objective, {}, None, model, parameters=[model.value])
    assert loss.item() == 2.0 * 3.0 + 3.0 * 12.0 + 40.0
    assert seen == [(True, (3.0,)), (True, (2.0,))]
    np.testing.assert_array_equal(jt.grad(loss, model.value).numpy(), [2.0, 2.0])
