"""One way to a trainer that takes a moment: a problem with known answers, and two steps of gradient descent below."""

from functools import partial

from jboat import BilevelTrainer
import jittor as jt
from problems import Quadratic


def make(*callbacks, problem=None, ll_lr=0.1, ul_lr=0.1, trainer_class=BilevelTrainer, **arguments):
    """A trainer of ``problem``, by default a new Quadratic, both of whose levels are moved by SGD of the rates given.

    Each of the trainer's own ``arguments`` takes the place of the problem's. An optimizer may also be a function that
    makes it of the list of its level's parameters.
    """
    problem = problem or Quadratic(same_dims="IAD" in arguments.get("na_op", ()))
    ul_model, ll_model = problem.models()
    models = {"ll_model": ll_model, "ul_model": ul_model, **arguments}
    for level, lr in (("ll", ll_lr), ("ul", ul_lr)):
        optimizer = arguments.get(f"{level}_optimizer") or partial(jt.optim.SGD, lr=lr)
        parameters = list(models[f"{level}_model"].parameters())
        arguments[f"{level}_optimizer"] = optimizer(parameters) if callable(optimizer) else optimizer
    own = {"ll_objective": problem.f, "ul_objective": problem.F, "lower_iters": 2, "callbacks": callbacks}
    return trainer_class(**{**own, **models, **arguments})
