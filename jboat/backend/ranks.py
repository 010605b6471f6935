"""The processes that ``mpirun`` has started together, called ranks, and what they tell each other, by Jittor's MPI.

Without ``mpirun`` there is one rank: every function is there and nothing is sent. With several, all of them must call
these functions in the same order. A lone call waits for ever.

Numbers and bytes are sent when a function is called. Vars are lazy: their reductions run when what depends on them is
computed. Nothing that does may therefore be fetched by one rank alone.
"""

from __future__ import annotations

from collections.abc import Sequence
import functools
from typing import Any, NamedTuple

from jboat.backend.collective_order import summed_in_order
import jittor as jt
import numpy as np

_LARGEST_MESSAGE = 1 << 30


class Shard(dict[str, Any]):
    """A batch that is this rank's part of one that all ranks share.

    Objectives of it are means over the samples of all ranks. Any other batch is this rank's own affair: its objectives
    are computed here alone, and nothing is reduced.

    Args:
        batch: this rank's samples.
        weights: for each rank its number of samples divided by that of all ranks; they sum to 1. A rank whose samples
            do not count has weight 0, and samples all the same, such as another rank's.

    Attributes:
        weights: what was given, the same on all ranks.
    """

    def __init__(self, batch: Any, weights: Sequence[float]) -> None:
        super().__init__(batch)
        self.weights = tuple(weights)

    @property
    def weight(self) -> float:
        """What a mean over this rank's samples counts for in the mean over those of all ranks."""
        return self.weights[rank()]


class Traffic(NamedTuple):
    """Reductions of Vars that this rank has built.

    Attributes:
        reductions: the number of collective calls for derivatives, and for whatever else comes as a list of Vars.
        size: what they reduce, in bytes.
        scalars: the number of single numbers, such as losses, of which those that nobody fetches are never sent.
    """

    reductions: int = 0
    size: int = 0
    scalars: int = 0


_traffic = Traffic()


def traffic() -> Traffic:
    """The reductions so far; subtract two to know what was built between them."""
    return _traffic


@functools.cache
def size() -> int:
    """How many ranks there are."""
    return int(jt.world_size)


@functools.cache
def rank() -> int:
    """Which of them this process is, from 0."""
    return int(jt.rank)


def barrier() -> None:
    """Wait until all ranks are here."""
    if size() > 1:
        jt.mpi.mpi_barrier()


def broadcast_bytes(data: bytes, *, root: int = 0) -> bytes:
    """The bytes of one rank.

    Args:
        data: what the rank ``root`` has to say; ignored on others.
        root: whose bytes are wanted.
    """
    if size() == 1:
        return data
    length = np.array([len(data)], np.int64).view(np.uint8)
    jt.mpi.broadcast(length, root)
    received = np.zeros(int(length.view(np.int64)[0]), np.uint8)
    if rank() == root:
        received[:] = np.frombuffer(data, np.uint8)
    for begin in range(0, len(received), _LARGEST_MESSAGE):
        jt.mpi.broadcast(received[begin : begin + _LARGEST_MESSAGE], root)
    return received.tobytes()


def broadcast(variables: Sequence[jt.Var], *, root: int = 0) -> None:
    """Let variables hold what they hold on one rank, to the bit, whatever their type.

    Args:
        variables: Vars of the same shapes and dtypes on all ranks; they keep their flags and lose their history.
        root: whose values are wanted.

    Raises:
        ValueError: if a rank's variables take another number of bytes than those of ``root``, on that rank.
    """
    if size() == 1:
        return
    arrays = [v.numpy() for v in variables]
    received = broadcast_bytes(b"".join(a.tobytes() for a in arrays), root=root)
    expected = sum(a.nbytes for a in arrays)
    if len(received) != expected:
        raise ValueError(f"rank {rank()} has variables of {expected} bytes, rank {root} of {len(received)}")
    begin = 0
    for variable, array in zip(variables, arrays, strict=True):
        value = np.frombuffer(received, array.dtype, array.size, begin).reshape(array.shape)
        begin += array.nbytes
        if value.tobytes() != array.tobytes():
            variable.update(jt.array(value, dtype=str(variable.dtype)))


def gathered(numbers: Sequence[float]) -> list[list[float]]:
    """What every rank has given, in order of ranks.

    Args:
        numbers: as many on every rank.
    """
    own = np.array(numbers, np.float64)
    if size() == 1:
        return [own.tolist()]
    rows = []
    for root in range(size()):
        row = own.copy()
        jt.mpi.broadcast(row.view(np.uint8), root)
        rows.append(row.tolist())
    return rows


def sum_of(numbers: Sequence[float]) -> list[float]:
    """The sums over all ranks, number by number, the same on all ranks to the bit."""
    return [sum(column) for column in zip(*gathered(numbers), strict=True)]


def mean_of(numbers: Sequence[float], weight: float = 1.0) -> list[float]:
    """The means over all ranks, number by number, the same on all ranks to the bit.

    Args:
        numbers: as many on every rank.
        weight: what this rank counts for against others, such as its number of samples; a rank of weight 0 adds
            nothing, not even NaN.
    """
    rows = [(row[:-1], row[-1]) for row in gathered([*numbers, weight]) if row[-1] != 0.0]
    whole = sum(weight for _, weight in rows)
    return [sum(row[i] * weight for row, weight in rows) / whole for i in range(len(numbers))]


def mean(variables: Sequence[jt.Var]) -> list[jt.Var]:
    """The means over all ranks, as constants: one reduction for each dtype there is.

    Args:
        variables: floating-point Vars of the same shapes on all ranks.
    """
    constants = [v.detach() for v in variables]
    return constants if size() == 1 else [v / size() for v in total(constants)]


def total(variables: Sequence[jt.Var]) -> list[jt.Var]:
    """The sums over all ranks, by one reduction for each dtype there is.

    Jittor differentiates them as if all ranks' losses were added up; see :mod:`jboat.backend.replicated` for others.

    Args:
        variables: floating-point Vars of the same shapes on all ranks.
    """
    if size() == 1:
        return list(variables)
    results = list(variables)
    by_dtype: dict[str, list[int]] = {}
    for i, v in enumerate(variables):
        if v.numel() > 0:
            by_dtype.setdefault(str(v.dtype), []).append(i)
    for dtype, places in by_dtype.items():
        # MPI has no sum of 16-bit numbers
        sent = dtype if dtype in ("float32", "float64") else "float32"
        parts = [variables[i].cast(sent) if sent != dtype else variables[i] for i in places]
        for i, found in zip(places, _sums(parts), strict=True):
            results[i] = found.cast(dtype) if sent != dtype else found
    return results


def _sums(parts: list[jt.Var]) -> list[jt.Var]:
    """The sums over all ranks of Vars of one dtype, by one reduction."""
    global _traffic
    if len(parts) == 1 and parts[0].numel() == 1:
        _traffic = _traffic._replace(scalars=_traffic.scalars + 1)
    else:
        bytes_sent = sum(v.nbytes for v in parts)
        _traffic = _traffic._replace(reductions=_traffic.reductions + 1, size=_traffic.size + bytes_sent)
    if len(parts) == 1:
        return [summed_in_order(parts[0])]
    joined = summed_in_order(jt.concat([v.reshape(-1) for v in parts], 0))
    results, begin = [], 0
    for v in parts:
        end = begin + v.numel()
        results.append(joined[begin:end].reshape(v.shape))
        begin = end
    return results
