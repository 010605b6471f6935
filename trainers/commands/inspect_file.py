"""``python -m jboat inspect FILE``: what a checkpoint or a file of weights holds, which may come from anyone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import sys
from typing import Any

from jboat.trainers.persistence import archive, npz_file
import numpy as np

_ROWS = 200
_WIDTH = 200
_MODELS = ("ll_model", "ul_model")


def main(path: str) -> int:
    """Print what the file holds; returns 0, or 2 with the reason printed where it is none of the two."""
    try:
        content = npz_file.content_of(path)
        lines = list(_of_checkpoint(path, content) if archive.is_checkpoint(content) else _of_weights(path, content))
    except Exception as error:  # whatever a stranger's bytes lead to
        said = str(error)
        told = said if said.startswith(path) else f"{path} is neither a checkpoint of jboat nor weights: {said}"
        print(f"error: {_plain(told)}", file=sys.stderr)
        return 2
    print("\n".join(lines))
    return 0


def _of_checkpoint(path: str, content: bytes) -> Iterator[str]:
    tree = archive.unpacked(path, content)
    parts = ("configuration", "variables", "state", "history", "callbacks")
    if not isinstance(tree, dict) or not all(isinstance(tree.get(part), dict) for part in parts):
        raise ValueError(f"a checkpoint has the tables {', '.join(parts)}")
    state = tree["state"]
    yield f"checkpoint, {_size(content)}"
    step, epoch, rows = (_plain(v) for v in (state.get("step"), state.get("epoch"), tree["history"].get("rows")))
    yield f"step {step}, epoch {epoch}, history of {rows} rows"
    yield from _table("metrics", state.get("metrics"))
    yield from _models(tree["variables"])
    configuration = tree["configuration"]
    yield from _table("configuration", {k: v for k, v in configuration.items() if not isinstance(v, dict)})
    yield "callbacks"
    yield from _some([f"  {_plain(key)}" for key in tree["callbacks"]] or ["  none"])


def _of_weights(path: str, content: bytes) -> Iterator[str]:
    arrays = npz_file.arrays_of(content)
    yield f"weights, {_size(content)}"
    yield from _models(arrays)


def _models(arrays: Mapping[str, Any]) -> Iterator[str]:
    """Names, types and shapes of the arrays of each model, and of those that are in none."""
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise ValueError("a variable is no array")
    groups: dict[str, list[tuple[str, np.ndarray]]] = {}
    for name, array in arrays.items():
        model, _, rest = name.partition(".")
        known = model in _MODELS
        groups.setdefault(model if known else "", []).append((rest if known else name, array))
    for model, named in groups.items():
        numbers = sum(array.size for _, array in named)
        yield f"{model or 'arrays'}: {len(named)} arrays, {numbers:,} numbers"
        yield from _some([f"  {_plain(name)}  {array.dtype} {list(array.shape)}" for name, array in named])


def _table(title: str, table: Any) -> Iterator[str]:
    if not isinstance(table, dict):
        raise ValueError(f"{title} is no table")
    yield title
    yield from _some([f"  {_plain(key)}  {_number(value)}" for key, value in table.items()] or ["  none"])


def _some(lines: Sequence[str]) -> Iterator[str]:
    yield from lines[:_ROWS]
    if len(lines) > _ROWS:
        yield f"  and {len(lines) - _ROWS:,} more"


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else _plain(value)


def _size(content: bytes) -> str:
    return f"{len(content):,} bytes"


def _plain(value: Any) -> str:
    """A value as a line of printable characters: a stranger's text may hold commands for the terminal."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(value)[: _WIDTH + 1])
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]}..."
