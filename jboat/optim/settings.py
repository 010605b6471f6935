"""What an optimizer is set to now: of a parameter group what it says itself, else what the optimizer says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jboat.plain_numbers import plain
import jittor as jt


def setting(optimizer: jt.optim.Optimizer, group: Mapping[str, Any], name: str) -> Any:
    """A hyperparameter of one of the optimizer's parameter groups, numbers as Python's own."""
    return plain(group[name] if name in group else getattr(optimizer, name))


def learning_rates(optimizer: jt.optim.Optimizer) -> list[float]:
    """The learning rate of each parameter group."""
    return [float(setting(optimizer, group, "lr")) for group in optimizer.param_groups]
