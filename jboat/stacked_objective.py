"""An objective of one task, called once for several: the sum of its values, whose derivatives are those of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jboat import functional, levels
from jboat.backend import out_of_memory
from jboat.backend.stacked import unknown_operations
from jboat.backend.stacked.array import NotStackedError, Stacked, UnequalTasksError, held
import jittor as jt
import numpy as np


class StackedObjective:
    """The sum over tasks of an objective, where batches are :func:`stacked_batch` and y has a first axis of tasks.

    To be called inside a block of :func:`jboat.backend.stacked.places.stacking`. The lower-level variables, which the
    objective may reach in any way, hold NaN while it runs, so that what computes with them and knows nothing of tasks
    cannot pass for right.

    Args:
        objective: the objective of one task.
        variables: the Vars that the lower level optimizes.
    """

    def __init__(self, objective: Callable[..., Any], variables: Sequence[jt.Var]) -> None:
        self.__name__ = getattr(objective, "__name__", type(objective).__name__)
        self._objective = objective
        self._variables = list(variables)
        self._nan: dict[tuple[Any, ...], jt.Var] = {}

    def __call__(self, *args: Any) -> jt.Var:
        """The sum over tasks, a scalar Var.

        Raises:
            NotStackedError: if the objective does what is not known for several tasks at once.
        """
        values = [Stacked(functional.alias(v)) for v in self._variables]
        tasks = values[0].tasks
        token = held.set({id(v): value for v, value in zip(self._variables, values, strict=True)})
        try:
            with functional.substituted(self._variables, [self._nan_like(value) for value in values]):
                loss = levels.result_of(self._objective, *args, parameters=self._variables)
        except NotStackedError:
            raise
        except Exception as error:  # Jittor's operations raise a RuntimeError for what is no Var
            if out_of_memory.told_by(error) is not None:
                raise
            reason = unknown_operations.in_words(error)
            if not reason and isinstance(error, (TypeError, AttributeError)):
                raise
            raise NotStackedError(reason or f"{type(error).__name__}: {error}") from error
        finally:
            held.reset(token)
        if isinstance(loss, jt.Var):
            return loss * float(tasks)  # it is the same for all tasks
        if not isinstance(loss, Stacked):
            raise TypeError(f"{self.__name__} must return a scalar jt.Var, got {type(loss).__name__}")
        if loss.numel() != 1:
            raise ValueError(f"{self.__name__} must return a scalar, got shape {list(loss.shape)}")
        return loss.value.sum()

    def _nan_like(self, value: Stacked) -> jt.Var:
        key = value.shape, str(value.dtype)
        if key not in self._nan:
            self._nan[key] = jt.array(np.full(value.shape, np.nan, key[1]), dtype=key[1])
        return self._nan[key]


def stacked_batch(batches: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One batch a task as a batch of arrays with an axis of tasks; what is no array must be the same in all.

    Raises:
        UnequalTasksError: if they have other entries, shapes or types, or differ in what is no array.
    """
    first = batches[0]
    if any(batch.keys() != first.keys() for batch in batches):
        raise UnequalTasksError("tasks whose batches have other entries")
    return {name: _stacked_entry(name, [batch[name] for batch in batches]) for name in first}


def _stacked_entry(name: str, entries: Sequence[Any]) -> Any:
    first = entries[0]
    if not isinstance(first, jt.Var):
        if not isinstance(first, (bool, int, float, str, type(None))) or any(entry != first for entry in entries):
            raise UnequalTasksError(f"tasks with a {type(first).__name__} of their own in {name!r}")
        return first
    kinds = {(tuple(e.shape), str(e.dtype)) if isinstance(e, jt.Var) else None for e in entries}
    if len(kinds) > 1:
        raise UnequalTasksError(f"tasks whose {name!r} has another shape or type: {_in_words(kinds)}")
    array = jt.array(np.stack([entry.numpy() for entry in entries]), dtype=str(first.dtype))
    return Stacked(array.stop_grad() if all(entry.is_stop_grad() for entry in entries) else array)


def _in_words(kinds: set[Any]) -> str:
    return " and ".join(sorted("no array" if kind is None else f"{kind[1]} {list(kind[0])}" for kind in kinds))
