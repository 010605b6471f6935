"""Operations whose gradient is written by hand, which the check of second derivatives notes."""

from __future__ import annotations

from jboat.backend import python_passes  # noqa: F401  (first, so that it lies below the dispatcher)
from jboat.backend.replacements.dispatch import install
import jittor as jt

PLACES = ((jt.Function, "__call__"), (jt, "code"), (jt, "numpy_code"))
for _place in PLACES:
    install(*_place, "during the check of second derivatives, its use is noted")
