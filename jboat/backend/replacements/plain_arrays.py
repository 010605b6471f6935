"""What kinds of arrays jboat's own operations take."""

from __future__ import annotations

from typing import Any

import jittor as jt


def is_float(a: jt.Var) -> bool:
    """Whether a Var holds floating-point numbers."""
    return str(a.dtype).startswith(("float", "bfloat"))


def is_plain(a: Any) -> bool:
    """Whether something is a Var of float32 that Jittor computes in float32."""
    return isinstance(a, jt.Var) and a.dtype == "float32" and not jt.flags.amp_reg


def is_matrix(a: Any) -> bool:
    """Whether something is a matrix of float32."""
    return is_plain(a) and bool(a.ndim == 2)
