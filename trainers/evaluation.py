"""Run models for evaluation and leave them as they were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import contextlib
from typing import Any

from jboat import functional
from jboat.trainers.loader_stream import LoaderStream
from jboat.trainers.loaders import batch_size
import jittor as jt


@contextlib.contextmanager
def evaluation_mode(models: Sequence[jt.Module]) -> Iterator[None]:
    """No graphs, dropout off, running statistics in use and kept; everything is undone at the end.

    ``Module.eval()`` would stop the gradient of every parameter, so the modules' flags are set instead.
    """
    modules = [m for model in models for m in model.modules()]
    flags = [m.is_training() for m in modules]
    buffers = [b for model in models for b in functional.buffers(model)]
    with functional.preserved(buffers), jt.no_grad():
        for m in modules:
            m.is_train = False
        try:
            yield
        finally:
            for m, flag in zip(modules, flags, strict=True):
                m.is_train = flag


def weighted_means(loader: Any, step: Any) -> dict[str, float]:
    """Means over a loader's batches, weighted by their sizes.

    Args:
        loader: any loader.
        step: called with each batch; returns numbers or one-element Vars by name.

    Raises:
        TypeError: if ``step`` returns something other than numbers by name.
        ValueError: if the loader is empty, or gives lists of tasks.
    """
    stream = LoaderStream(loader, "loader")
    sums: dict[str, float] = {}
    total = 0
    while (batch := stream.draw()) is not None:
        if isinstance(batch, list):
            raise ValueError("loader gave a list of tasks; evaluate takes single batches")
        numbers = step(batch)
        if not isinstance(numbers, Mapping):
            raise TypeError(f"evaluation_step must return a dict of numbers, got {type(numbers).__name__}")
        size = batch_size(batch)
        total += size
        for name, value in numbers.items():
            number = float(value.item()) if isinstance(value, jt.Var) else float(value)
            sums[name] = sums.get(name, 0.0) + size * number
    return {name: value / total for name, value in sums.items()}
