"""A schedule for GDA's weight."""

from __future__ import annotations

from jboat.callbacks.option_schedule import OptionSchedule


class GDASchedule(OptionSchedule):
    """Sets ``alpha_init``, GDA's weight of the upper objective at inner step 0; the metric is ``gda_alpha``."""

    operator = "GDA"
    option = "alpha_init"
    metric = "gda_alpha"
