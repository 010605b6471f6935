"""An objective that is computed in parts of its batch, one at a time, as if it were computed of the whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
import itertools
import logging
import math
import traceback
from typing import Any, NamedTuple

from jboat import functional, levels
from jboat.backend import batch_statistics, out_of_memory, ranks
from jboat.backend.flag_blocks import flag
from jboat.backend.replacements import random_numbers
from jboat.levels import Objective
from jboat.numbers_drawn_anew import DrawnAnew
from jboat.terms import DRAWS_OF_A_SUM, summed
from jboat.trainers.data.loaders import batch_size, is_array
from jboat.trainers.data.sharding import samples_of
from jboat.trial_calls import on_trial
from jboat.warn_once import WarnOnce
import jittor as jt
import numpy as np

logger = logging.getLogger("jboat")

_OF_SHAPES = (RuntimeError, AssertionError, ValueError, IndexError)
"""What Jittor and numpy raise for arrays that do not fit together."""
_LARGEST_DIFFERENCE = 1e-3  # relative; a sum is off by the number of parts


class Part(NamedTuple):
    """Some samples of a batch, from ``begin`` to ``end``, and their share of all of them."""

    begin: int
    end: int
    weight: float


class MicroBatches:
    """The mean over a batch's samples, and its derivatives, computed in parts that are weighted by their samples.

    The parts are made of the first argument, the lower batch; another batch goes whole into each. It is exact where the
    objective is a mean over samples, to which terms that depend on no sample may be added.

    Args:
        objective: called as :func:`jboat.levels.call` does.
        parts: how many there are at most; a batch of fewer samples has as many parts as samples.
        ll_var: the variables of the lower level.
        ul_var: the variables of the upper level.
    """

    def __init__(self, objective: Objective, parts: int, ll_var: Sequence[jt.Var], ul_var: Sequence[jt.Var]) -> None:
        self.__name__ = getattr(objective, "__name__", type(objective).__name__)
        self._objective, self._parts = objective, parts
        self._ll_var, self._variables = list(ll_var), [*ll_var, *ul_var]
        self._warn = WarnOnce()
        self._looked = False
        self._drawn_anew = DrawnAnew()

    def __call__(self, batch: Mapping[str, Any], *others: Any) -> jt.Var:
        """The objective, a scalar Var that can be differentiated twice.

        Raises:
            ValueError: if the batch cannot be split.
        """
        samples = samples_in(batch)
        statistics = [v for model in others[-2:] for v in functional.buffers(model)]
        before = [v.id for v in statistics]
        parts = parts_of(samples, min(self._parts, _fewest_on_a_rank(batch, samples)))
        terms = [partial(self._of_part, part, samples, batch, others) for part in parts]
        # of several ranks all would have to call it, for layers that reduce, and a failure on one would stop the others
        look = not self._looked and len(parts) > 1 and ranks.size() == 1
        draws = list[None]()
        with self._drawn_anew.looking(), random_numbers.noted(lambda: draws.append(None)) if look else nullcontext():
            total = summed(terms, [part.weight for part in parts], self._variables, statistics, again=self._run_again)
        changed = before != [v.id for v in statistics]
        if look:
            repeats = len(draws) == DRAWS_OF_A_SUM and not self._drawn_anew.found and not changed
            # else the same part has several values
            self._looked = not repeats or self._see_whether_mean(parts[0], parts[1], samples, batch, others)
        if len(parts) > 1 and changed:
            self._warn(
                "lower_micro_batches: %s changes running statistics. A model that normalises by its batch, as "
                "BatchNorm in training, normalises each part by itself, and the result is not that of the whole batch; "
                "GroupNorm and LayerNorm have no such dependence",
                self.__name__,
            )
        return total

    def _run_again(self) -> None:
        if self._drawn_anew.found:
            self._warn(
                "lower_micro_batches: %s draws random numbers of numpy's or Python's own generator. Second derivatives "
                "run it once more, with the same numbers of Jittor's generator but others of those, and the result is "
                "that of no objective: draw by jt.rand or jt.randn, or leave lower_micro_batches out",
                self.__name__,
            )

    def _see_whether_mean(
        self, first: Part, second: Part, samples: int, batch: Mapping[str, Any], others: Sequence[Any]
    ) -> bool:
        """Warn where the objective of two parts at once is not what a mean over samples is by each of them.

        Returns:
            False where the values are not finite, and tell nothing.
        """
        both = Part(first.begin, second.end, first.weight + second.weight)
        failure = ""
        try:
            with flag("no_grad", 1), on_trial():
                whole, *each = (self._of_part(part, samples, batch, others).item() for part in (both, first, second))
        except Exception as error:  # of a look, where what was asked for has been computed
            failure = f"{type(error).__name__}: {error}"
            traceback.clear_frames(error.__traceback__)  # what they hold fails once more later
        if failure:
            jt.gc()
            logger.info(
                "lower_micro_batches: whether %s is a mean over samples is not known, since of %d samples at once it "
                "raises %s",
                self.__name__,
                both.end,
                failure,
            )
            return True
        if not all(map(math.isfinite, (whole, *each))):
            return False
        by_parts = (first.weight * each[0] + second.weight * each[1]) / both.weight
        if abs(whole - by_parts) > _LARGEST_DIFFERENCE * max(map(abs, (whole, *each))):
            self._warn(
                "lower_micro_batches: %s of the first %d samples is %.6g, and by two parts, each by its samples, %.6g. "
                "It is not a mean over samples, to which terms without data may be added, and in parts it is another "
                "function than of the whole batch: take a mean in place of a sum",
                self.__name__,
                both.end,
                whole,
                by_parts,
            )
        return True

    def _of_part(self, part: Part, samples: int, batch: Mapping[str, Any], others: Sequence[Any]) -> jt.Var:
        cut = {key: _cut(key, value, samples, part) for key, value in batch.items()}
        jt.sync([array for key, value in cut.items() for _, array in _arrays(key, value) if isinstance(array, jt.Var)])
        try:
            # what is logged counts by its samples
            with batch_statistics.weighted(part.weight) if ranks.size() == 1 else nullcontext():
                return levels.call_here(self._objective, cut, *others, parameters=self._ll_var)
        except _OF_SHAPES as error:
            if type(error) not in _OF_SHAPES or part.end - part.begin == samples or out_of_memory.told_by(error):
                raise
            raise type(error)(
                f"{self.__name__}, which lower_micro_batches gives samples {part.begin} to {part.end - 1} of a batch "
                f"of {samples}, while what has another first dimension goes whole into every part: {error}"
            ) from error


def parts_of(samples: int, most: int) -> list[Part]:
    """The parts of so many samples, which differ by one sample at most."""
    count = min(samples, most)
    bounds = [samples * k // count for k in range(count + 1)]
    return [Part(a, b, (b - a) / samples) for a, b in itertools.pairwise(bounds)]


def _fewest_on_a_rank(batch: Mapping[str, Any], samples: int) -> int:
    """The samples of the rank that has the fewest, so that all have as many parts, whose layers may reduce."""
    if not isinstance(batch, ranks.Shard) or not batch.weight:
        return samples
    return round(samples * min(weight for weight in batch.weights if weight) / batch.weight)


def samples_in(batch: Mapping[str, Any]) -> int:
    """How many samples a batch has: its entry ``batch_size``, or what the first dimensions of its arrays agree on.

    Arrays of shape ``[1]``, which Jittor makes of numbers too, have no say unless there are no others, and those within
    dicts, lists and tuples none unless all are.

    Raises:
        ValueError: if there is no such number, or no array has that many.
    """
    entries = {key: value for key, value in batch.items() if key != "batch_size"}
    arrays = {key: value for key, value in entries.items() if is_array(value)}
    arrays = arrays or {name: a for key, value in entries.items() for name, a in _arrays(str(key), value)}
    shapes = {key: list(np.shape(value)) for key, value in arrays.items()}
    all_of_them = {shape[0] for shape in shapes.values() if shape}
    if "batch_size" in batch:
        many = all_of_them & {batch_size(batch)}
    else:
        many = {shape[0] for shape in shapes.values() if shape and shape != [1]} or all_of_them
    if many == {0}:
        raise ValueError(f"lower_micro_batches: a lower batch has no samples: its arrays have the shapes {shapes}")
    if len(many) == 1:
        return int(many.pop())
    if many:
        raise ValueError(
            f"lower_micro_batches: the arrays of a lower batch have different first dimensions, {shapes}, so that it "
            "is not known what a sample is; give batches an entry 'batch_size': arrays of another first dimension then "
            "go whole into every part"
        )
    raise ValueError(
        f"lower_micro_batches: a lower batch with the entries {list(batch)} has no array with a first dimension of "
        "samples, and cannot be computed in parts; give the samples as arrays of the batch, or leave "
        "lower_micro_batches out"
    )


def _cut(key: str, value: Any, samples: int, part: Part) -> Any:
    """What of a batch's entry belongs to a part."""
    if key == "batch_size":
        return part.end - part.begin
    return samples_of(value, samples, part.begin, part.end, lambda variable: variable[part.begin : part.end])


def _arrays(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The arrays in an entry of a batch, however deep in dicts, lists and tuples."""
    if is_array(value):
        yield name, value
    elif isinstance(value, (dict, list, tuple)):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _arrays(f"{name}[{key!r}]", one)
