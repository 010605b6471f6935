"""An objective that is computed in parts of its batch, one at a time, as if it were computed of the whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
import itertools
from typing import Any, NamedTuple

from jboat import functional, levels
from jboat.backend import batch_statistics, ranks
from jboat.backend.flag_blocks import flag
from jboat.backend.replacements import dispatch
from jboat.levels import Objective
from jboat.numbers_drawn_anew import DrawnAnew
from jboat.terms import DRAWS_OF_A_SUM, summed
from jboat.trainers.data.loaders import batch_size, is_array
from jboat.trainers.data.sharding import samples_of
from jboat.trial_calls import on_trial
from jboat.warn_once import WarnOnce
import jittor as jt
import numpy as np

_RANDOM = (jt, "random")
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
        self._draws = 0
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
        look = not self._looked and len(parts) > 1 and ranks.size() == 1
        with self._drawn_anew.looking(), self._counting_draws() if look else nullcontext():
            total = summed(terms, [part.weight for part in parts], self._variables, statistics, again=self._run_again)
        changed = before != [v.id for v in statistics]
        if look:
            self._looked = True
            repeats = self._draws == DRAWS_OF_A_SUM and not self._drawn_anew.found
            if repeats and not changed:  # else the same part has several values
                self._see_whether_mean(parts[0], samples, batch, others)
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

    @contextmanager
    def _counting_draws(self) -> Iterator[None]:
        draw = dispatch.current(*_RANDOM)

        def counted(*args: Any, **kwargs: Any) -> jt.Var:
            self._draws += 1
            return draw(*args, **kwargs)

        with dispatch.replaced({_RANDOM: counted}):
            yield

    def _see_whether_mean(self, part: Part, samples: int, batch: Mapping[str, Any], others: Sequence[Any]) -> None:
        """Warn where the objective of a few samples is not what a mean over samples is by its halves."""
        size = max(2, part.end - part.begin)
        with flag("no_grad", 1), on_trial():
            whole, *halves = (
                self._of_part(Part(a, b, (b - a) / size), samples, batch, others).item()
                for a, b in ((0, size), (0, size // 2), (size // 2, size))
            )
        by_halves = (size // 2 * halves[0] + (size - size // 2) * halves[1]) / size
        if abs(whole - by_halves) > _LARGEST_DIFFERENCE * max(map(abs, (whole, *halves))):
            self._warn(
                "lower_micro_batches: %s of the first %d samples is %.6g, and by halves, each by its samples, %.6g. "
                "It is not a mean over samples, to which terms without data may be added, and in parts it is another "
                "function than of the whole batch: take a mean in place of a sum",
                self.__name__,
                size,
                whole,
                by_halves,
            )

    def _of_part(self, part: Part, samples: int, batch: Mapping[str, Any], others: Sequence[Any]) -> jt.Var:
        cut = {key: _cut(key, value, samples, part) for key, value in batch.items()}
        jt.sync([value for value in cut.values() if isinstance(value, jt.Var)])
        # what is logged counts by its samples
        with batch_statistics.weighted(part.weight) if ranks.size() == 1 else nullcontext():
            return levels.call_here(self._objective, cut, *others, parameters=self._ll_var)


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

    Arrays of shape ``[1]``, which Jittor makes of numbers too, have no say unless there are no others.

    Raises:
        ValueError: if there is no such number, or no array has that many.
    """
    shapes = {key: list(np.shape(value)) for key, value in batch.items() if key != "batch_size" and is_array(value)}
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
    if isinstance(value, jt.Var):
        if not value.ndim or value.shape[0] != samples:
            return value
        cut = value[part.begin : part.end]
        return cut.stop_grad() if value.is_stop_grad() else cut
    return samples_of(value, samples, part.begin, part.end)
