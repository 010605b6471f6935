"""Differentiable update rules of Jittor's optimizers.

A rule is a pure function from parameters, gradients and optimizer state to new parameters and state. It produces the
iterates of the optimizer it is made from, and can be differentiated in all three.
"""

from jboat.optim.adam import AdamRule
from jboat.optim.adamw import AdamWRule
from jboat.optim.adan import AdanRule
from jboat.optim.rmsprop import RMSpropRule
from jboat.optim.rule import OptimizerState, Rule, register_rule
from jboat.optim.sgd import SGDRule
from jboat.optim.update_rule import UpdateRule

__all__ = [
    "AdamRule",
    "AdamWRule",
    "AdanRule",
    "OptimizerState",
    "RMSpropRule",
    "Rule",
    "SGDRule",
    "UpdateRule",
    "register_rule",
]
