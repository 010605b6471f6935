"""Batches of a loader, pass after pass, from a position that can be saved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import hashlib
from typing import Any

from jboat.backend.jittor_alone import jittor_alone
from jboat.callbacks.saved_values import is_count
from jboat.trainers import seeding
from jboat.trainers.data.loaders import FORMS, Item, as_item, check_loader, drawn, known_length
from jboat.trainers.data.random_stream import RandomStream, unpacked_states
import jittor as jt
import numpy as np


class LoaderStream:
    """Batches of a loader, pass after pass; with several ranks whole ones, as arrays, all the same on each.

    Args:
        loader: the user's loader.
        name: the argument to name in an error.
        seed: what the loader's random numbers derive from, apart from the global generators; None to let it draw from
            those.
        limit: how many batches a pass has at most; None for all.

    Attributes:
        passes: passes begun.
        position: batches drawn in the present pass.
        wrapped: whether :meth:`draw_cycling` has begun a pass since this was last set to False.
    """

    def __init__(self, loader: Any, name: str, seed: int | None = None, limit: int | None = None) -> None:
        check_loader(loader, name)
        self._loader = loader
        self._name = name
        self._seed = seed
        self._limit = limit
        self._iterator: Iterator[Any] | None = None
        self._whole: Item | None = drawn(loader, name, fixed=False) if isinstance(loader, Mapping) else None
        self._fixed = self._whole is not None or type(loader) in (list, tuple)  # a subclass may shuffle as it is read
        self._random = None if seed is None or self._fixed else RandomStream(seed)
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
    def length(self) -> int | None:
        """The number of batches in a pass, where the loader tells."""
        length = 1 if self._whole is not None else known_length(self._loader)
        return length if length is None or self._limit is None else min(length, self._limit)

    @property
    def may_be_at_end(self) -> bool:
        """Whether the present pass may have no batch left, and one more draw would do no harm.

        A loader that is its own iterator, as a generator is, may be read on after this run: a batch that is drawn from
        it to see whether there is one would be lost.
        """
        length = self.length
        if self._iterator is None or length is not None:
            return self._iterator is None or self.position == length
        if self._at_limit:
            return True
        return self._iterator is not self._loader

    @property
    def _at_limit(self) -> bool:
        """Whether the present pass has had all that it may have."""
        return self._iterator is not None and self._limit is not None and self.position >= self._limit

    def draw(self) -> Item | None:
        """The next batch of the present pass; None, once, where the pass ends."""
        if self._whole is not None:
            return self._draw_whole(self._whole)
        if self._at_limit:
            self._iterator = None
            return None
        if self._random is not None and self._seed is not None:
            seeding.reseed_jittor(self._seed, self.passes, self.position)
        begins = self._iterator is None
        if begins:
            self._pass_start = self._generators()
            self.passes += 1
            self.position = 0
        with jittor_alone(), contextlib.nullcontext() if self._random is None else self._random.active():
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
        self._last = drawn(raw, self._name, fixed=self._fixed)
        return self._last

    def draw_cycling(self) -> Item:
        """The next batch, from a new pass where the present one ends."""
        item = self.draw()
        if item is None:
            self.wrapped = True
            return self.draw_cycling()
        return item

    def one_pass(self) -> Iterator[Item]:
        """The batches of a whole pass."""
        self._iterator = None
        while (item := self.draw()) is not None:
            yield item

    def commit(self) -> None:
        """Make the present position the one that :meth:`state_dict` tells: the batches drawn so far are used."""
        self._committed = (self.passes, self.position, self._iterator is not None, self.wrapped)
        self._committed_start = self._pass_start if self._iterator is not None else self._generators()
        self._committed_last = self._last

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stood at the last :meth:`commit`."""
        passes, position, is_open, wrapped = self._committed
        digest = "" if self._committed_last is None else _digest(as_item(self._committed_last, self._name))
        counts = {"passes": passes, "position": position, "open": is_open, "wrapped": wrapped}
        return {**counts, "seed": self._seed, "generators": self._committed_start, "digest": digest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to the position that :meth:`state_dict` told, by repeating the pass up to it.

        Raises:
            ValueError: if it is no position, or the loader gives other batches than it gave then.
        """
        check_position(state, self._name)
        generators = dict(state["generators"])
        dataset = generators.pop("dataset", None)
        if dataset is not None:
            self._set_shuffle(dataset)
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
            if self._last is not None and _digest(as_item(self._last, self._name)) != state["digest"]:
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

    def _set_shuffle(self, state: Any) -> None:
        """Set the generator of a Jittor Dataset's own."""
        shuffle = getattr(self._loader, "_shuffle_rng", None)
        if not isinstance(shuffle, np.random.Generator):
            raise ValueError(
                f"{self._name} was a Dataset with a generator of its own when it was saved; it is none now"
            )
        if not _same_form(state, shuffle.bit_generator.state):
            raise ValueError(f"{self._name} had another generator than {type(shuffle.bit_generator).__name__}")
        try:
            shuffle.bit_generator.state = state
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{self._name}: its generator's state is none: {error}") from error

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


def check_position(state: Any, name: str) -> None:
    """Require what :meth:`LoaderStream.state_dict` gives.

    Args:
        state: what was read.
        name: what to call it in an error.

    Raises:
        ValueError: for anything else.
    """
    kinds = {
        **{"passes": (int,), "position": (int,), "open": (bool,), "wrapped": (bool,)},
        **{"seed": (int, type(None)), "generators": (dict,), "digest": (str,)},
    }
    if not isinstance(state, dict) or set(state) != set(kinds):
        raise ValueError(f"{name} must hold {', '.join(kinds)}")
    for key, allowed in kinds.items():
        if type(state[key]) not in allowed or (type(state[key]) is int and not is_count(state[key])):
            raise ValueError(f"{name}: {key} must be {allowed[0].__name__}")
    if state["open"] and state["position"] > 0 and state["passes"] < 1:
        raise ValueError(f"{name} stands in a pass that it has not begun")
    rest = {key: value for key, value in state["generators"].items() if key != "dataset"}
    if rest:
        unpacked_states(rest)


def _same_form(state: Any, live: Any) -> bool:
    """Whether a bit generator's state has the form of another's, and its positions lie in its buffers."""
    if isinstance(live, dict):
        return (
            isinstance(state, dict)
            and set(state) == set(live)
            and all(_same_form(state[key], live[key]) for key in live)
            and (type(state.get("pos", 0)) is int and state.get("pos", 0) <= 624)
            and (type(state.get("buffer_pos", 0)) is int and state.get("buffer_pos", 0) <= 4)
        )
    if isinstance(live, np.ndarray):
        return isinstance(state, np.ndarray) and state.dtype == live.dtype and state.shape == live.shape
    if isinstance(live, int):
        return type(state) is int and state >= 0
    return type(state) is type(live) and bool(state == live)


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
