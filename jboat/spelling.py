"""The nearest valid spelling of a name, for errors."""

from __future__ import annotations

from collections.abc import Iterable
import difflib
from typing import Any


def nearest(given: Any, valid: Iterable[str]) -> str:
    """`` Did you mean ...?`` when a valid spelling is near, else nothing."""
    names = {name.lower(): name for name in valid}
    close = difflib.get_close_matches(str(given).lower(), names, n=1)
    return f" Did you mean {names[close[0]]!r}?" if close else ""
