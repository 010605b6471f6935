"""Batches from whatever the user calls a loader."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jittor as jt
import numpy as np

Batch = dict[str, Any]
Item = Batch | list[Batch]
FORMS = (
    "a batch is a dict, or an (x, y) pair of arrays, or a list of such batches (tasks); "
    "a loader is an iterable of batches, a function that returns one, or one dict"
)


def check_loader(loader: Any, name: str) -> None:
    """Refuse what cannot be a loader, without reading from it.

    Raises:
        TypeError: if it is of a wrong kind.
        ValueError: if it is known to be empty.
    """
    if isinstance(loader, (str, bytes, jt.Var, np.ndarray)) or not (callable(loader) or isinstance(loader, Iterable)):
        raise TypeError(f"{name} must be a loader, got {type(loader).__name__}; {FORMS}")
    if isinstance(loader, tuple) and len(loader) == 2 and all(_is_array(v) for v in loader):
        raise TypeError(f"{name} is an (x, y) pair; write {{'data': x, 'target': y}} to train on it as one batch")
    if not isinstance(loader, Mapping) and known_length(loader) == 0:
        raise ValueError(f"{name} is empty; it must give at least one batch")


def known_length(loader: Any) -> int | None:
    """The number of batches, where the loader tells."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None


def _is_array(value: Any) -> bool:
    return isinstance(value, (jt.Var, np.ndarray))


def as_item(item: Any, name: str) -> Item:
    """A batch, or a list of them, with numpy arrays as Vars; the caller's objects stay as they are.

    Raises:
        TypeError: if it is not a batch.
    """
    if isinstance(item, (list, tuple)) and item and not any(_is_array(v) for v in item):
        return [_as_batch(entry, name) for entry in item]
    return _as_batch(item, name)


def _as_batch(item: Any, name: str) -> Batch:
    if isinstance(item, (list, tuple)) and len(item) == 2 and all(_is_array(v) for v in item):
        item = {"data": item[0], "target": item[1]}
    if not isinstance(item, Mapping):
        raise TypeError(f"{name} gave a batch of type {type(item).__name__}; {FORMS}")
    batch = {key: jt.array(value) if isinstance(value, np.ndarray) else value for key, value in item.items()}
    jt.sync([value for value in batch.values() if isinstance(value, jt.Var)])
    return batch


def batch_size(batch: Mapping[str, Any]) -> int:
    """The first dimension of the batch's first array; 1 when it has none."""
    for value in batch.values():
        if isinstance(value, jt.Var) and value.ndim > 0:
            return int(value.shape[0])
    return 1
