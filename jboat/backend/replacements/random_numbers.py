"""Drawing random numbers, which lower steps note, since steps that draw any share no graph."""

from __future__ import annotations

from jboat.backend.replacements.dispatch import install
import jittor as jt

PLACE = (jt, "random")
install(*PLACE, "while the first lower step is built, drawing random numbers is noted")
