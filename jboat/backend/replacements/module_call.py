"""Calling a module, which BOAT's objectives do with explicit parameters."""

from __future__ import annotations

from jboat.backend.replacements.dispatch import install
import jittor as jt

for _name in ("__call__", "__hooked_call__"):  # the second, where the class has hooks, hands them what it is given
    install(
        jt.Module, _name, "while an objective that takes `params` runs, its lower-level model may be called with them"
    )
