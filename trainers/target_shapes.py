"""Notice predictions of shape ``[n, 1]`` beside targets of shape ``[n]``, which together make ``[n, n]``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from jboat.backend.replacements import differences, dispatch
import jittor as jt


@contextmanager
def watched(batches: Sequence[Any]) -> Iterator[list[str]]:
    """Note, inside the block, differences of such shapes, and products of them with an entry of a batch.

    Args:
        batches: what the objectives are called with.

    Yields:
        The list that sentences are added to.
    """
    found: list[str] = []
    entries = {id(v): name for batch in batches if isinstance(batch, Mapping) for name, v in batch.items()}

    def noting(name: str, original: dispatch.Function) -> dispatch.Function:
        def operation(a: Any, b: Any) -> Any:
            flat = _flat_one(a, b)
            if flat is not None and ("sub" in name or id(flat) in entries):
                entry = entries.get(id(flat))
                what = f"the entry {entry!r} of a batch" if entry else "a Var"
                n = flat.shape[0]
                found.append(
                    f"{what} of shape [{n}] meets one of shape [{n}, 1] in an objective, which gives [{n}, {n}], every "
                    "one with every other"
                )
            return original(a, b)

        return operation

    with dispatch.replaced({place: noting(place[1], original) for place, original in differences.JITTORS.items()}):
        yield found


def _flat_one(a: Any, b: Any) -> jt.Var | None:
    """The one of shape ``[n]`` where the other has shape ``[n, 1]``, n above 1."""
    if not isinstance(a, jt.Var) or not isinstance(b, jt.Var):
        return None
    for flat, column in ((a, b), (b, a)):
        n = flat.shape[0] if flat.ndim == 1 else 0
        if n > 1 and list(column.shape) == [n, 1]:
            return flat
    return None
