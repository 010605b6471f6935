"""Objectives that take ``params``: what they may do with the lower-level model besides calling it with them."""

import copy
import pickle

from jboat import levels
import jittor as jt
from jittor import nn
import numpy as np
from problems import Point
import pytest

WAYS = {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model))}


class Doubled(Point):
    """2 y, with a running number beside y that is not trained."""

    def __init__(self, value):
        self.seen = jt.array([7.0]).stop_grad()
        super().__init__(value)

    def execute(self):
        return 2.0 * self.value


def called(objective, model):
    def with_params(batch, ul_model, ll_model, params):
        return objective(ll_model, params)

    return levels.call(with_params, {}, None, model, parameters=[model.value])


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_is_a_module_like_any_other(way):
    model, copies = Doubled([1.0, 2.0]), []
    before = dict(vars(model))

    def objective(ll_model, params):
        assert ll_model is model
        assert vars(model) == before
        copies.append(WAYS[way](ll_model))
        return ll_model(params=params).sum()

    assert called(objective, model).item() == 6.0
    (other,) = copies
    assert type(other) is Doubled
    assert vars(other).keys() == before.keys()
    other.value = jt.array([10.0, 20.0])
    np.testing.assert_array_equal(other().numpy(), [20.0, 40.0])
    np.testing.assert_array_equal(model().numpy(), [2.0, 4.0])
    with pytest.raises(TypeError, match="unexpected keyword argument 'params'"):
        other(params=[other.value])
    with pytest.raises(TypeError, match="unexpected keyword argument 'params'"):
        model(params=[model.value])


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_of_another_value_runs_itself_inside_the_objective(way):
    def objective(ll_model, params):
        other = WAYS[way](ll_model)
        other.value = jt.array([10.0, 20.0])
        return other().sum()

    assert called(objective, Doubled([1.0, 2.0])).item() == 60.0


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_may_be_called_with_params_too(way):
    """2 (3 y) has the gradient 6 by y, whichever module runs it."""
    model = Doubled([1.0, 2.0])
    loss = called(lambda ll_model, params: WAYS[way](ll_model)(params=[3.0 * p for p in params]).sum(), model)
    assert loss.item() == 18.0
    np.testing.assert_array_equal(jt.grad(loss, model.value).numpy(), [6.0, 6.0])


def test_another_class_has_its_own_keywords():
    class Other(Point):
        def execute(self, params):
            return params * self.value

    other = Other([5.0])
    assert (
        called(lambda ll_model, params: ll_model(params=params).sum() + other(params=2.0), Doubled([1.0])).item() == 12
    )
    with pytest.raises(TypeError, match="unexpected keyword argument 'params'"):
        called(lambda ll_model, params: nn.Tanh()(params[0], params=params), Doubled([1.0]))


def test_a_class_with_a_call_of_its_own():
    class Counting(Doubled):
        calls = 0

        def __call__(self, *args, **kwargs):
            self.calls += 1
            return super().__call__(*args, **kwargs)

    model = Counting([1.0, 2.0])
    assert called(lambda ll_model, params: ll_model(params=[3.0 * p for p in params]).sum(), model).item() == 18.0
    assert model.calls == 1


def test_a_module_with_a_hook():
    class Hooked(Doubled):
        """A class of its own, since Jittor changes the class whose module gets a hook."""

    model = Hooked([1.0, 2.0])
    model.register_forward_hook(lambda module, args, output, kwargs=None: output + 1.0)
    assert called(lambda ll_model, params: ll_model(params=[3.0 * p for p in params]).sum(), model).item() == 20.0
