"""Differences and products, which are looked at for shapes while objectives are called for the first time."""

from __future__ import annotations

from jboat.backend.replacements.dispatch import install
import jittor as jt

_WHY = (
    "while objectives are called for the first time, shapes that do not go together are noted; it is in place only then"
)
JITTORS = {
    (jt.Var, name): install(jt.Var, name, _WHY, lasting=False)
    for name in ("__sub__", "__rsub__", "__mul__", "__rmul__")
}
"""Jittor's functions by place."""
