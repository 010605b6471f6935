"""A schedule for DI's step size."""

from __future__ import annotations

from jboat.callbacks.option_schedule import OptionSchedule


class DISchedule(OptionSchedule):
    """Sets ``lr``, the step size of DI's learned initialisation; the metric is ``di_lr``."""

    operator = "DI"
    option = "lr"
    metric = "di_lr"
