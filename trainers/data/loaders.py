"""Batches from whatever the user calls a loader."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from jboat.backend import ranks
from jboat.trainers.data import floats
import jittor as jt
import numpy as np

_INT32, _INT64 = np.iinfo(np.int32), np.iinfo(np.int64)

Batch = dict[str, Any]
Item = Batch | list[Batch]
_PLACES = ("data", "target", "index")
FORMS = (
    "a batch is a dict, or an (x, y) pair or (x, y, index) triple of arrays, or a list of such batches (tasks), in "
    "evaluations a list of (support, query) pairs of them; "
    "a loader is an iterable of batches, a function that returns one, or one dict"
)


class Task(dict[str, Any]):
    """What an evaluation adapts to, and where it measures: the batches ``support`` and ``query``."""


def check_loader(loader: Any, name: str) -> None:
    """Refuse what cannot be a loader, without reading from it.

    Raises:
        TypeError: if it is of a wrong kind.
        ValueError: if it is known to be empty.
    """
    iterable = callable(loader) or isinstance(loader, Iterable)
    if isinstance(loader, (str, bytes)) or is_array(loader) or not iterable:
        raise TypeError(f"{name} must be a loader, got {type(loader).__name__}; {FORMS}")
    if isinstance(loader, tuple) and len(loader) in (2, 3) and all(is_array(v) for v in loader):
        raise TypeError(f"{name} is an (x, y) pair; write {{'data': x, 'target': y}} to train on it as one batch")
    if not isinstance(loader, Mapping) and known_length(loader) == 0:
        raise ValueError(f"{name} is empty; it must give at least one batch")


def known_length(loader: Any) -> int | None:
    """The number of batches, where the loader tells."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None


def check_fixed(loader: Any, name: str, method: str) -> None:
    """Refuse a loader that need not give the same batches in every pass.

    Args:
        loader: what is a loader.
        name: the argument to name in an error.
        method: who needs such batches.

    Raises:
        ValueError: if it does not tell how many batches it has, shuffles, or cannot be asked for one by its place.
    """
    if isinstance(loader, Mapping):
        return
    sampler = getattr(loader, "sampler", None)  # which takes the place of shuffle
    if sampler is not None and type(sampler) is not jt.dataset.SequentialSampler:
        reason = f"its {type(sampler).__name__} gives the order"
    elif sampler is None and getattr(loader, "shuffle", False):
        reason = "it shuffles"
    elif known_length(loader) is None:
        reason = "it does not tell how many it has"
    elif not (hasattr(loader, "__getitem__") or isinstance(loader, jt.dataset.Dataset)):
        reason = "it cannot be asked for one by its place"
    else:
        return
    raise ValueError(
        f"{method} remembers something of every batch, or takes all of them at once, so that {name} must give the same "
        f"batches in every pass, but {reason}. Give a list of batches, one batch, or a Dataset with shuffle=False; "
        "SOBA and MASOBA take any loader"
    )


def as_item(item: Any, name: str) -> Item:
    """A batch, or a list of them, with numpy arrays as Vars; the caller's objects stay as they are.

    Raises:
        TypeError: if it is not a batch.
    """
    raw = raw_item(item, name)
    return [as_batch(entry, name) for entry in raw] if isinstance(raw, list) else as_batch(raw, name)


def drawn(item: Any, name: str, *, fixed: bool) -> Item:
    """An item of a loader, as a stream hands it on: with several ranks, arrays are cut before they become Vars.

    Args:
        item: what the loader gave.
        name: what to call the loader in an error.
        fixed: whether the loader's arrays stay as they are; else they are copied, since it may use them again.

    Raises:
        TypeError: if it is not a batch.
    """
    if ranks.size() == 1:
        return as_item(item, name)
    raw = raw_item(item, name)
    if fixed:
        return raw
    return [_copied(batch) for batch in raw] if isinstance(raw, list) else _copied(raw)


def _copied(batch: Batch) -> Batch:
    if isinstance(batch, Task):
        return Task({half: _copied(of_half) for half, of_half in batch.items()})
    return {key: value.copy() if isinstance(value, np.ndarray) else value for key, value in batch.items()}


def raw_item(item: Any, name: str) -> Item:
    """A batch, or a list of them, as dicts of the values that the user gave.

    Raises:
        TypeError: if it is not a batch.
    """
    if isinstance(item, (list, tuple)) and item and not any(is_array(v) for v in item):
        return [_task(entry, name) if _is_task(entry) else _raw_batch(entry, name) for entry in item]
    return _raw_batch(item, name)


def _is_task(entry: Any) -> bool:
    """Whether this is a pair of batches, which arrays are not."""
    if isinstance(entry, Task):
        return True
    pair = isinstance(entry, (list, tuple)) and len(entry) == 2
    return pair and all(isinstance(half, (Mapping, list, tuple)) for half in entry)


def _task(entry: Any, name: str) -> Task:
    if isinstance(entry, Task):  # a stream within a stream
        return entry
    return Task(support=_raw_batch(entry[0], name), query=_raw_batch(entry[1], name))


def _raw_batch(item: Any, name: str) -> Batch:
    if isinstance(item, (list, tuple)) and len(item) in (2, 3) and all(is_array(v) for v in item):
        item = dict(zip(_PLACES, item, strict=False))
    elif _is_bunch(item):
        item = {key: item[key] for key in _PLACES if item.get(key) is not None}
    if isinstance(item, (list, tuple)) and not item:
        raise TypeError(f"{name} gave an empty {type(item).__name__}, which holds neither arrays nor tasks; {FORMS}")
    if not isinstance(item, Mapping):
        raise TypeError(f"{name} gave a batch of type {type(item).__name__}; {FORMS}")
    return dict(item)


def _is_bunch(item: Any) -> bool:
    """Whether this is what scikit-learn's loaders of data sets return, which holds names and descriptions too."""
    return isinstance(item, dict) and type(item).__name__ == "Bunch" and "data" in item


def as_batch(raw: Mapping[str, Any], name: str) -> Batch:
    """A batch with numpy arrays as Vars, computed; the caller's dict stays as it is."""
    if isinstance(raw, Task):
        return raw  # whose batches become Vars one at a time
    batch = {key: _as_value(key, value, name) for key, value in raw.items()}
    jt.sync([value for value in batch.values() if isinstance(value, jt.Var)])
    return batch


def _as_value(key: Any, value: Any, name: str) -> Any:
    """Arrays, and what numpy makes arrays of, as Vars; so are integers that Jittor would cut, alone or in a list."""
    if isinstance(value, jt.Var):
        return value
    if is_array(value):
        return _as_var(key, value, name)
    if not _has_wide_integer(value):
        return value
    if not isinstance(value, (list, tuple)):
        return _as_var(key, np.asarray(value), name)
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths, of which Jittor makes nothing either
        return value
    return _as_var(key, array, name) if array.dtype.kind in "iuf" else value


def _has_wide_integer(value: Any) -> bool:
    """Whether a number, or one in a list, is an integer of more than 32 bits."""
    if isinstance(value, (list, tuple)):
        return any(map(_has_wide_integer, value))
    integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return integer and not _INT32.min <= int(value) <= _INT32.max


def is_array(value: Any) -> bool:
    """Whether a batch's value becomes a Var: numpy makes an array of it, or it is one."""
    if isinstance(value, (jt.Var, np.ndarray)):
        return True
    return hasattr(value, "__array__") and not isinstance(value, np.generic)


def _as_var(key: Any, value: Any, name: str) -> jt.Var:
    """An array as a Var; integers of 64 bits become 32, as Jittor has it, only where every one fits.

    Raises:
        TypeError: if it is no array of numbers, or has masked entries.
        ValueError: if an integer does not fit into 64 bits with a sign.
    """
    if np.ma.is_masked(value):
        raise TypeError(f"{name}: {key!r} of a batch has masked entries, which Jittor does not know; fill them")
    array = np.asarray(value)  # Jittor takes no subclass, such as a memmap
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name}: {key!r} of a batch has dtype {array.dtype}; give integers, floats or bools")
    if array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)  # Jittor does not look at the order of bytes
    if array.dtype.kind == "f" and floats.are_wide():
        return jt.array(array.astype(np.float64), dtype="float64")
    if array.dtype == np.float16:  # which Jittor would not multiply with a model's float32
        array = array.astype(np.float32)
    if array.dtype.kind not in "iu" or array.dtype.itemsize < 4 or array.dtype == np.int32 or array.size == 0:
        return jt.array(array)
    least, greatest = int(array.min()), int(array.max())
    if greatest > _INT64.max:
        raise ValueError(f"{name}: {key!r} of a batch holds {greatest}, which is more than int64 can")
    narrow = least >= _INT32.min and greatest <= _INT32.max
    return jt.array(array.astype(np.int32) if narrow else array.astype(np.int64), dtype="int32" if narrow else "int64")


def batch_size(batch: Mapping[str, Any]) -> int | None:
    """How many samples a batch holds.

    That is its entry ``batch_size`` or, without one, what the first dimensions of its arrays agree on. Arrays of shape
    ``[1]``, which Jittor makes of numbers too, have no say unless there are no others.

    Returns:
        The number, 1 for a batch without arrays, None where first dimensions differ.

    Raises:
        ValueError: if the entry ``batch_size`` is not an integer of at least 1.
    """
    if "batch_size" in batch:
        given = batch["batch_size"]
        one = isinstance(given, np.generic) or (isinstance(given, jt.Var) and given.numel() == 1)
        size = given.item() if one else given
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"the entry 'batch_size' of a batch must be an integer >= 1, got {given!r}")
        return size
    shapes = [list(value.shape) for value in batch.values() if isinstance(value, jt.Var) and value.ndim > 0]
    sizes = {shape[0] for shape in shapes if shape != [1]}
    if len(sizes) > 1:
        return None
    return int(sizes.pop()) if sizes else 1
