"""The square root that adaptive optimizers divide by."""

from __future__ import annotations

import jittor as jt


def square_root(v: jt.Var) -> jt.Var:
    """Square root with derivative 0 at 0, where a parameter never had a gradient; plain sqrt gives NaN there."""
    positive = v > 0.0
    return jt.where(positive, jt.sqrt(jt.where(positive, v, jt.ones_like(v))), jt.zeros_like(v))
