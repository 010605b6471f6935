"""Batches of a loader, pass after pass, from a position that can be saved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import hashlib
from typing import Any

from jboat.trainers import seeding
from jboat.trainers.loaders import FORMS, Item, as_item, check_loader, known_length
from jboat.trainers.random_stream import RandomStream
import jittor as jt
import numpy as np


class LoaderStream:
    """Batches of a loader, pass after pass.

    Args:
        loader: the user's loader.
        name: the argument to name in an error.
        seed: what the loader's random numbers derive from, apart from the global generators; None to let it draw from
            those.

    Attributes:
        passes: passes begun.
        position: batches drawn in the present pass.
        wrapped: whether :meth:`draw_cycling` has begun a pass since this was last set to False.
    """

    def __init__(self, loader: Any, name: str, seed: int | None = None) -> None:
        check_loader(loader, name)
        self._loader = loader
        self._name = name
        self._seed = seed
        self._iterator: Iterator[Any] | None = None
        self._whole: Item | None = as_item(loader, name) if isinstance(loader, Mapping) else None
        fixed = self._whole is not None or type(loader) in (list, tuple)  # a subclass may shuffle as it is read
        self._random = None if seed is None or fixed else RandomStream(seed)
        self._pass_start = self._generators()
        self._last: Item | None = None
        self.passes = 0
        self.position = 0
        self.wrapped = False
        self.commit()

    @property
    def between_passes(self) -> bool:
        """Whether the present pass has ended, or none has begun."""
        return self._iterator is None

    @property
    def may_be_at_end(self) -> bool:
        """Whether the present pass may have no batch left, and one more draw would do no harm.

        A loader that is its own iterator, as a generator is, may be read on after this run: a batch that is drawn from
        it to see whether there is one would be lost.
        """
        length = 1 if self._whole is not None else known_length(self._loader)
        if self._iterator is None or length is not None:
            return self._iterator is None or self.position == length
        return self._iterator is not self._loader

    def draw(self) -> Item | None:
        """The next batch of the present pass; None, once, where the pass ends."""
        if self._whole is not None:
            return self._draw_whole(self._whole)
        if self._random is not None and self._seed is not None:
            seeding.reseed_jittor(self._seed, self.passes, self.position)
        begins = self._iterator is None
        if begins:
            self._pass_start = self._generators()
            self.passes += 1
            self.position = 0
        with contextlib.nullcontext() if self._random is None else self._random.active():
            if begins:
                self._iterator = self._begin()
            try:
                assert self._iterator is not None
                raw = next(self._iterator)
            except StopIteration:
                self._iterator = None
                if begins:
                    raise ValueError(
                        f"{self._name} gave no batch in pass {self.passes}; it must give at least one in every pass. "
                        "A generator is used up after one pass: give the function that makes it."
                    ) from None
                return None
        self.position += 1
        self._last = as_item(raw, self._name)
        return self._last

    def draw_cycling(self) -> Item:
        """The next batch, from a new pass where the present one ends."""
        item = self.draw()
        if item is None:
            self.wrapped = True
            return self.draw_cycling()
        return item

    def commit(self) -> None:
        """Make the present position the one that :meth:`state_dict` tells: the batches drawn so far are used."""
        self._committed = (self.passes, self.position, self._iterator is not None, self.wrapped)
        self._committed_start = self._pass_start if self._iterator is not None else self._generators()
        self._committed_last = self._last

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stood at the last :meth:`commit`."""
        passes, position, is_open, wrapped = self._committed
        digest = "" if self._committed_last is None else _digest(self._committed_last)
        counts = {"passes": passes, "position": position, "open": is_open, "wrapped": wrapped}
        return {**counts, "seed": self._seed, "generators": self._committed_start, "digest": digest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to the position that :meth:`state_dict` told, by repeating the pass up to it.

        Raises:
            ValueError: if the loader gives other batches than it gave then.
        """
        generators = dict(state["generators"])
        dataset = generators.pop("dataset", None)
        if dataset is not None:
            self._loader._shuffle_rng.bit_generator.state = dataset
        if self._random is not None and generators:
            self._random.load_state_dict(generators)
        self._seed = state["seed"]
        self._iterator = None
        self.passes = state["passes"]
        if state["open"]:
            self.passes -= 1
            for _ in range(state["position"]):
                if self.draw() is None:
                    break
            if self._last is not None and _digest(self._last) != state["digest"]:
                raise ValueError(
                    f"{self._name} gives other batches than in the run that was saved. Its order must come from the "
                    "global generators of random or numpy, from a generator it makes anew in each pass, or from a "
                    "Jittor Dataset's shuffle."
                )
        self.position = state["position"]
        self.wrapped = state["wrapped"]
        self.commit()

    def _draw_whole(self, batch: Item) -> Item | None:
        """One batch is the same in every pass, whatever the generators say."""
        if self._iterator is not None:
            self._iterator = None
            return None
        self._iterator = iter(())
        self.passes += 1
        self.position = 1
        return batch

    def _begin(self) -> Iterator[Any]:
        if callable(self._loader) and not isinstance(self._loader, Iterable):
            made = self._loader()
            if not isinstance(made, Iterable):
                raise TypeError(f"{self._name}() returned {type(made).__name__}; {FORMS}")
            return iter(made)
        return iter(self._loader)

    def _generators(self) -> dict[str, Any]:
        """The states that decide the order of a pass; for a single batch there is none."""
        if self._whole is not None:
            return {}
        states = {} if self._random is None else self._random.state_dict()
        shuffle = getattr(self._loader, "_shuffle_rng", None)
        if isinstance(shuffle, np.random.Generator):
            states["dataset"] = shuffle.bit_generator.state
        return states


def _digest(item: Item) -> str:
    """A checksum of a batch's arrays, numbers and strings."""
    checksum = hashlib.sha256()
    for batch in item if isinstance(item, list) else [item]:
        for key, value in batch.items():
            checksum.update(str(key).encode())
            if isinstance(value, jt.Var):
                checksum.update(value.numpy().tobytes())
            elif isinstance(value, (bool, int, float, str)):
                checksum.update(repr(value).encode())
    return checksum.hexdigest()
