"""One rank's part of what an outer step trains on.

Every rank reads the same loader in the same order, and of each batch takes the samples that are its own: N ranks
compute what one process with the same loader computes. Tasks are given out whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import itertools
import logging
from typing import Any, NamedTuple
import zlib

from jboat.backend import ranks
from jboat.trainers.data.loaders import Batch, as_batch, batch_size, is_array
from jboat.trainers.data.step_batches import Feed, Pair
import jittor as jt
import numpy as np

logger = logging.getLogger("jboat")


@dataclass(frozen=True)
class TaskShare:
    """Which of a step's tasks are this rank's.

    Attributes:
        first: the number of its first one.
        counts: how many each rank has, at least one.
    """

    first: int
    counts: tuple[int, ...]

    @property
    def weight(self) -> float:
        """This rank's share of all tasks."""
        return self.counts[ranks.rank()] / sum(self.counts)

    @property
    def last_rank(self) -> int:
        """The rank that has the last task."""
        return len(self.counts) - 1


class EvaluatedPart(NamedTuple):
    """A rank's part of a batch of an evaluation.

    Attributes:
        batch: the part.
        share: how much of the whole batch it stands for.
        counted: the same for the batch's size: 1 where that is the size of the part alone.
    """

    batch: Batch
    share: float
    counted: float


class Sharding:
    """Gives out batches and tasks to ranks. With one rank everything is its own."""

    def __init__(self) -> None:
        self._whole: dict[str, set[str]] = {"ll": set(), "ul": set(), "loader": set()}
        self._parts: dict[str, tuple[Batch, Batch]] = {}
        self._told = False

    def own(self, pairs: list[Pair]) -> tuple[list[Pair], TaskShare | None]:
        """This rank's part of a step.

        Where there are at least as many pairs as ranks, each rank gets some of them whole; else of each pair its part.

        Args:
            pairs: what the step trains on, the same on all ranks.

        Returns:
            The pairs, and which they are of all where these are given out whole.

        Raises:
            ValueError: if a batch has fewer samples than there are ranks.
        """
        n, rank = ranks.size(), ranks.rank()
        if n == 1:
            return pairs, None
        if len(pairs) < n or len(pairs) == 1:
            return [(self._own_feed(ll, "ll"), self._own_feed(ul, "ul")) for ll, ul in pairs], None
        bounds = [len(pairs) * r // n for r in range(n + 1)]
        share = TaskShare(bounds[rank], tuple(b - a for a, b in itertools.pairwise(bounds)))
        return [_whole_pair(pair) for pair in pairs[bounds[rank] : bounds[rank + 1]]], share

    def evaluated(self, batch: Batch) -> EvaluatedPart:
        """This rank's part of a batch to evaluate; one with fewer samples than ranks is evaluated whole by all."""
        if ranks.size() == 1:
            return EvaluatedPart(batch, 1.0, 1.0)
        samples = self._samples(batch, "loader")
        cut = samples is not None and samples >= ranks.size()
        part = self._part(batch, "loader", samples if cut else None)
        share = part.weight if isinstance(part, ranks.Shard) else 1.0 / ranks.size()
        return EvaluatedPart(dict(part), share, 1.0 if cut else share)

    def part(self, batch: Batch, level: str) -> Batch:
        """This rank's samples of a batch, as Vars, with their weight.

        Sample dimensions are first dimensions equal to the batch's size; see :func:`loaders.batch_size`. What has
        another first dimension, or none, is left whole, in later batches too. Where nothing can be cut every rank gets
        the whole batch, computes all of it, and has nothing to ask the others.

        Args:
            batch: the values that the loader gave.
            level: ``"ll"`` or ``"ul"``.

        Raises:
            ValueError: if it has fewer samples than there are ranks.
        """
        known = self._parts.get(level)
        if known is not None and known[0] is batch:
            return known[1]
        samples, n = self._samples(batch, level), ranks.size()
        if samples is not None and samples < n:
            raise ValueError(
                f"{level}_loader gave a batch of {samples} samples, and there are {n} ranks, each of which needs one: "
                "give larger batches, drop the last one, or start fewer ranks"
            )
        part = self._part(batch, level, samples)
        self._parts[level] = batch, part
        return part

    def _part(self, batch: Batch, level: str, samples: int | None) -> Batch:
        """This rank's samples of so many; the whole batch where they are None."""
        n, rank, name = ranks.size(), ranks.rank(), f"{level}_loader".removeprefix("loader_")
        if samples is None:
            return as_batch(batch, name)
        bounds = [samples * r // n for r in range(n + 1)]
        begin, end = bounds[rank], bounds[rank + 1]
        cut = {key: self._cut(key, value, level, samples, begin, end) for key, value in batch.items()}
        counts = [b - a for a, b in itertools.pairwise(bounds)]
        return ranks.Shard(as_batch(cut, name), [count / samples for count in counts])

    def _own_feed(self, feed: Feed, level: str) -> Feed:
        return [self.part(batch, level) for batch in feed] if isinstance(feed, list) else self.part(feed, level)

    def _samples(self, batch: Batch, level: str) -> int | None:
        """How many samples there are to be given out; None where nothing can be cut."""
        shapes = {key: tuple(np.shape(value)) for key, value in batch.items() if is_array(value)}
        if "batch_size" not in batch:
            many = {shape[0] for shape in shapes.values() if shape and shape != (1,)}
            if len(many) > 1 and not self._told:
                self._told = True
                logger.warning(
                    "a batch is not split over the ranks, each of which computes all of it: its arrays have different "
                    "first dimensions (%s). Give batches an entry 'batch_size'.",
                    {key: list(shape) for key, shape in shapes.items()},
                )
            return many.pop() if len(many) == 1 else None
        size = batch_size(batch)
        self._whole[level] |= {key for key, shape in shapes.items() if not shape or shape[0] != size}
        return size if shapes.keys() - self._whole[level] else None

    def _cut(self, key: str, value: Any, level: str, samples: int, begin: int, end: int) -> Any:
        """What of a batch's entry belongs to the samples from ``begin`` to ``end``."""
        if key == "batch_size":
            return end - begin
        if key in self._whole[level]:
            return value

        def cut(variable: jt.Var) -> jt.Var:
            return jt.array(variable.numpy()[begin:end], dtype=str(variable.dtype))

        return samples_of(value, samples, begin, end, cut)


def samples_of(value: Any, samples: int, begin: int, end: int, cut: Callable[[jt.Var], jt.Var]) -> Any:
    """The samples from ``begin`` to ``end`` of an array or list with one entry each; anything else as it is.

    In dicts, lists and tuples this holds for what they hold.

    Args:
        value: an entry of a batch.
        samples: how many samples the batch has.
        begin: the first sample.
        end: the one behind the last.
        cut: what takes them from a Var.
    """
    if isinstance(value, jt.Var):
        if not value.ndim or value.shape[0] != samples:
            return value
        part = cut(value)
        return part.stop_grad() if value.is_stop_grad() else part
    if is_array(value):
        array = value if isinstance(value, np.ndarray) else np.asarray(value)
        return array[begin:end] if array.ndim and len(array) == samples else value
    if isinstance(value, dict):
        return {key: samples_of(one, samples, begin, end, cut) for key, one in value.items()}
    if not isinstance(value, (list, tuple)):
        return value
    if len(value) == samples:
        return value[begin:end]
    parts = [samples_of(one, samples, begin, end, cut) for one in value]
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)


def _whole_pair(pair: Pair) -> Pair:
    return _whole_feed(pair[0], "ll_loader"), _whole_feed(pair[1], "ul_loader")


def _whole_feed(feed: Feed, name: str) -> Feed:
    return [as_batch(batch, name) for batch in feed] if isinstance(feed, list) else as_batch(feed, name)


def require_same_batches(pairs: Sequence[Pair] | None) -> None:
    """Require all ranks to have drawn the same, or nothing; with one rank do nothing.

    Args:
        pairs: what this rank has drawn; None where its pass over the lower loader has ended.

    Raises:
        ValueError: on all ranks, naming those that differ from rank 0.
    """
    if ranks.size() == 1:
        return
    rows = ranks.gathered([-1, 0] if pairs is None else [len(pairs), _checksum(pairs)])
    differing = [rank for rank, row in enumerate(rows) if row != rows[0]]
    if not differing:
        return
    names = f"rank {', '.join(map(str, differing))}"
    ended = {row[0] == -1 for row in rows}
    if len(ended) > 1:
        early = [rank for rank, row in enumerate(rows) if row[0] == -1]
        raise ValueError(
            f"ll_loader is shorter on rank {', '.join(map(str, early))} than on the others: all ranks have to read the "
            "same batches, of each of which every one takes its part"
        )
    raise ValueError(
        f"{names} drew other batches than rank 0: all ranks have to read the same batches in the same order, of each "
        "of which every one takes its part. Do not split the data by rank, and let the order come from Python's or "
        "numpy's global generators, from a generator with a fixed seed, or from a Jittor Dataset's shuffle"
    )


def _checksum(pairs: Sequence[Pair]) -> int:
    """A number that tells batches apart by their entries' names and shapes, and first and last samples."""
    checksum = 0
    for pair in pairs:
        for batch in (b for feed in pair for b in (feed if isinstance(feed, list) else [feed])):
            for key, value in batch.items():
                checksum = zlib.crc32(f"{key}{_ends(value)}".encode(), checksum)
    return checksum


def _ends(value: Any) -> object:
    if isinstance(value, jt.Var):
        return tuple(value.shape)
    if is_array(value):
        array = np.asarray(value)
        if array.dtype.hasobject or not array.size:
            return array.shape
        return array.shape, (array[[0, -1]] if array.ndim else array).tobytes()
    return value if isinstance(value, (bool, int, float, str)) else None
