"""Batches from whatever the user calls a loader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jittor as jt
import numpy as np

Batch = dict[str, Any]
Item = Batch | list[Batch]
_FORMS = (
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
        raise TypeError(f"{name} must be a loader, got {type(loader).__name__}; {_FORMS}")
    if isinstance(loader, tuple) and len(loader) == 2 and all(_is_array(v) for v in loader):
        raise TypeError(f"{name} is an (x, y) pair; write {{'data': x, 'target': y}} to train on it as one batch")
    if not isinstance(loader, Mapping) and _length(loader) == 0:
        raise ValueError(f"{name} is empty; it must give at least one batch")


def _length(loader: Any) -> int | None:
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
        raise TypeError(f"{name} gave a batch of type {type(item).__name__}; {_FORMS}")
    batch = {key: jt.array(value) if isinstance(value, np.ndarray) else value for key, value in item.items()}
    jt.sync([value for value in batch.values() if isinstance(value, jt.Var)])
    return batch


def batch_size(batch: Mapping[str, Any]) -> int:
    """The first dimension of the batch's first array; 1 when it has none."""
    for value in batch.values():
        if isinstance(value, jt.Var) and value.ndim > 0:
            return int(value.shape[0])
    return 1


class LoaderStream:
    """Batches of a loader, pass after pass.

    Args:
        loader: the user's loader.
        name: the argument to name in an error.

    Attributes:
        passes: passes begun.
        position: batches drawn in the present pass.
        wrapped: whether :meth:`draw_cycling` has begun a pass since this was last set to False.
    """

    def __init__(self, loader: Any, name: str) -> None:
        check_loader(loader, name)
        self._loader = loader
        self._name = name
        self._iterator: Iterator[Any] | None = None
        self._whole: Item | None = as_item(loader, name) if isinstance(loader, Mapping) else None
        self.passes = 0
        self.position = 0
        self.wrapped = False

    @property
    def at_end(self) -> bool:
        """Whether the present pass is known to have no batch left."""
        length = 1 if self._whole is not None else _length(self._loader)
        return self._iterator is None or self.position == length

    def draw(self) -> Item | None:
        """The next batch of the present pass; None, once, where the pass ends."""
        if self._iterator is None:
            self._iterator = self._begin()
            self.passes += 1
            self.position = 0
        try:
            item = next(self._iterator)
        except StopIteration:
            self._iterator = None
            if self.position == 0:
                raise ValueError(
                    f"{self._name} gave no batch in pass {self.passes}; it must give at least one in every pass. "
                    "A generator is used up after one pass: give the function that makes it."
                ) from None
            return None
        self.position += 1
        return item if self._whole is not None else as_item(item, self._name)

    def draw_cycling(self) -> Item:
        """The next batch, from a new pass where the present one ends."""
        item = self.draw()
        if item is None:
            self.wrapped = True
            return self.draw_cycling()
        return item

    def _begin(self) -> Iterator[Any]:
        if self._whole is not None:
            return iter([self._whole])
        if callable(self._loader) and not isinstance(self._loader, Iterable):
            made = self._loader()
            if not isinstance(made, Iterable):
                raise TypeError(f"{self._name}() returned {type(made).__name__}; {_FORMS}")
            return iter(made)
        return iter(self._loader)


Feed = Batch | list[Batch]
Pair = tuple[Feed, Batch]


def draw_pairs(
    ll_stream: LoaderStream, ul_stream: LoaderStream, *, pairs: int, lower_steps: int, fresh: bool
) -> list[Pair] | None:
    """What one outer step trains on.

    Args:
        ll_stream: lower batches; the epoch is a pass over them.
        ul_stream: upper batches.
        pairs: how many hypergradients the step averages.
        lower_steps: K.
        fresh: whether each lower step gets a batch of its own.

    Returns:
        One (lower, upper) pair per hypergradient, the lower part a list of K batches when ``fresh``; None where the
        pass over the lower batches has ended.

    Raises:
        ValueError: if one level gives a list of tasks and the other something else, or another number of them.
    """
    draw: Callable[[], Item | None] = ll_stream.draw
    result: list[Pair] = []
    for _ in range(pairs):
        lower = []
        for _ in range(lower_steps if fresh else 1):
            item = draw()
            if item is None:
                return None
            lower.append(item)
            draw = ll_stream.draw_cycling
        upper = ul_stream.draw_cycling()
        result += _tasks(lower, upper, fresh)
    return result


def _tasks(lower: list[Item], upper: Item, fresh: bool) -> list[Pair]:
    counts = {len(item) if isinstance(item, list) else None for item in [*lower, upper]}
    if len(counts) > 1:
        raise ValueError(f"both loaders must give the same number of tasks in a list, or single batches; got {counts}")
    if not isinstance(upper, list):
        singles = [item for item in lower if isinstance(item, dict)]
        return [(singles if fresh else singles[0], upper)]
    pairs: list[Pair] = []
    for task, ul_batch in enumerate(upper):
        of_task = [item[task] for item in lower if isinstance(item, list)]
        pairs.append((of_task if fresh else of_task[0], ul_batch))
    return pairs
