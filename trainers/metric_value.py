"""A metric as a plain number."""

from __future__ import annotations

from typing import Any

import jittor as jt
import numpy as np


def metric_value(name: str, value: Any, source: str) -> float:
    """One number, whatever carries it.

    Args:
        name: the metric.
        value: a number, or an array or Var with one element.
        source: where it comes from, for an error.

    Raises:
        TypeError: for anything else, naming the metric.
        ValueError: for an integer beyond every float.
    """
    array = value.numpy() if isinstance(value, jt.Var) else value
    if isinstance(array, np.ndarray) and array.size == 1:
        array = array.reshape(()).item()
    if isinstance(array, (bool, int, float, np.bool_, np.integer, np.floating)):
        try:
            return float(array)
        except OverflowError as error:
            raise ValueError(f"the metric {name!r} of {source} is more than a float can hold") from error
    given = f"an array of shape {list(array.shape)}" if isinstance(array, np.ndarray) else repr(array)
    hint = "; take its mean() or sum()" if isinstance(array, np.ndarray) else ""
    raise TypeError(f"the metric {name!r} of {source} must be one number, got {given}{hint}")
