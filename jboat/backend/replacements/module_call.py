"""Calling a module, which BOAT's objectives do with explicit parameters."""

from __future__ import annotations

from jboat.backend.replacements.dispatch import install
import jittor as jt

PLACES = ((jt.Module, "__call__"), (jt.Module, "__hooked_call__"))
"""The second is what Jittor calls a module of a class by that has hooks; it hands them what it is called with."""

for _place in PLACES:
    install(*_place, "while an objective that takes `params` runs, its lower-level model may be called with them")
