"""jboat's trainer of a problem."""

from __future__ import annotations

from typing import Any

from jboat import BilevelTrainer
import jittor as jt
from jittor_models import Problem, plain


def make_trainer(p: Problem, **chosen: Any) -> BilevelTrainer:
    """A trainer with the problem's models, objectives and learning rates, and whatever else is chosen."""
    return BilevelTrainer(
        p.lower_model,
        p.upper_model,
        p.lower,
        plain,
        ll_optimizer=jt.optim.SGD(p.lower_model.parameters(), p.definition.rate),
        ul_optimizer=jt.optim.SGD(p.upper_model.parameters(), p.definition.upper_rate),
        **chosen,
    )
