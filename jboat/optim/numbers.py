"""Arithmetic on hyperparameters, which are numbers or, where they are learned, Vars of one number."""

from __future__ import annotations

import math

import jittor as jt


def is_zero(value: float | jt.Var) -> bool:
    """Whether a hyperparameter is 0 for good; a Var, which may change, is not, and is not fetched."""
    return not isinstance(value, jt.Var) and not value


def root(value: float | jt.Var) -> float | jt.Var:
    """The square root of a positive number."""
    return value.sqrt() if isinstance(value, jt.Var) else math.sqrt(value)
