"""Run models for evaluation and leave them as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import json
import logging
from typing import TYPE_CHECKING, Any

from jboat import functional, levels, precision
from jboat.backend import ranks
from jboat.backend.flag_blocks import flag
from jboat.backend.replacements import dispatch, mean
from jboat.trainers.data.floats import as_wide_as
from jboat.trainers.data.loader_stream import LoaderStream
from jboat.trainers.data.loaders import Batch, check_loader
from jboat.trainers.data.sharding import EvaluatedPart, Sharding
from jboat.trainers.device_scope import device_scope
from jboat.trainers.metric_value import metric_value
from jboat.trainers.outer_step import device_memory
from jboat.trainers.task_evaluation import Adapt, TaskEvaluation
import jittor as jt

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer

logger = logging.getLogger("jboat")


class UnknownSize:
    """Warns once that the size of a batch is not known."""

    def __init__(self) -> None:
        self._warned = False

    def warn(self, batch: Batch) -> None:
        """Log the shapes that do not agree, and what to do."""
        if self._warned:
            return
        self._warned = True
        shapes = {name: list(v.shape) for name, v in batch.items() if isinstance(v, jt.Var)}
        logger.warning(
            "the size of an evaluation batch is not known, since first dimensions differ (%s): all batches count the "
            "same. Give batches an entry 'batch_size', or override evaluation_batch_size().",
            shapes,
        )


@contextlib.contextmanager
def evaluation_mode(models: Sequence[jt.Module]) -> Iterator[None]:
    """No graphs, dropout off, running statistics in use and kept; everything is undone at the end.

    ``Module.eval()`` would stop the gradient of every parameter, so the modules' flags are set instead.
    """
    modules = [m for model in models for m in model.modules()]
    modes = [vars(m).get("is_train") for m in modules]  # which a module lacks that nobody has asked for it yet
    buffers = [b for model in models for b in functional.buffers(model)]
    with functional.preserved(buffers), flag("no_grad", 1), dispatch.replaced(mean.in_float64()):
        for m in modules:
            m.is_train = False
        try:
            yield
        finally:
            for m, mode in zip(modules, modes, strict=True):
                if mode is None:
                    vars(m).pop("is_train", None)
                else:
                    m.is_train = mode


def measuring(models: Sequence[jt.Module], step: Callable[[Batch], Any]) -> Callable[[Batch], Any]:
    """A step that runs in :func:`evaluation_mode`."""

    def measured(batch: Batch) -> Any:
        with evaluation_mode(models), precision.products():
            return step(batch)

    return measured


def weighted_means(
    loader: Any,
    step: Callable[[Batch], Any],
    size_of: Callable[[Batch], int | None],
    complain: Callable[[Batch], None] = lambda batch: None,
    adapt: Adapt = lambda support, number: contextlib.nullcontext(),
) -> dict[str, float]:
    """Means over a loader's batches, weighted by their sizes; unweighted where the size of one is not known.

    Over tasks they are means of what is measured on each one's query batch, with half the width of their intervals.

    A metric that some batches do not have is averaged over those that do. With several ranks each takes its part of
    every batch, and the means are over the parts of all ranks.

    Args:
        loader: any loader.
        step: called with each batch; returns numbers or one-element Vars by name.
        size_of: the size of a batch; None where it cannot be told.
        complain: called with a batch whose size is not known, where that matters.
        adapt: lets the models be adapted to a task's support batch inside a block.

    Raises:
        TypeError: if ``step`` returns something other than numbers by name.
        ValueError: if the loader is empty, or gives lists of anything but (support, query) pairs.
    """
    stream, sharding = LoaderStream(loader, "loader"), Sharding()
    tasks = TaskEvaluation(adapt, step)
    rows: list[tuple[int | None, EvaluatedPart, dict[str, float]]] = []
    unsized: Batch | None = None
    while (whole := stream.draw()) is not None:
        if isinstance(whole, list):
            tasks.take(whole)
            continue
        part = sharding.evaluated(whole)
        numbers = step(part.batch)
        if not isinstance(numbers, Mapping):
            raise TypeError(f"evaluation_step must return a dict of numbers, got {type(numbers).__name__}")
        row = {name: metric_value(name, value, "an evaluation") for name, value in numbers.items()}
        size = size_of(part.batch)
        unsized = part.batch if size is None else unsized
        rows.append((size, part, row))
    if tasks.count and rows:
        raise ValueError("loader gave batches and lists of tasks; evaluate takes one kind")
    if tasks.count:
        return tasks.means()
    if unsized is not None and len(rows) > 1:
        complain(unsized)
    counts_the_same = _on_any_rank(unsized is not None, len(rows))
    sums: dict[str, tuple[float, float]] = {}
    for size, part, row in rows:
        weight = part.share if counts_the_same or size is None else size * part.counted
        for name, value in row.items():
            total, weights = sums.get(name, (0.0, 0))
            sums[name] = total + weight * value, weights + weight
    return {name: total / weights for name, (total, weights) in over_ranks(sums).items()}


def _on_any_rank(unsized: bool, batches: int) -> bool:
    """Whether the size of a batch is not known, here or on another rank.

    Raises:
        ValueError: on all ranks, if the loader is longer on some of them.
    """
    rows = ranks.gathered([unsized, batches])
    if len({row[1] for row in rows}) > 1:
        raise ValueError(
            f"loader gave {', '.join(f'{row[1]:.0f}' for row in rows)} batches on ranks 0 to {len(rows) - 1}: all of "
            "them have to read the same batches, of each of which every one takes its part"
        )
    return any(row[0] for row in rows)


def over_ranks(sums: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Sums and their weights, added up over all ranks."""
    if ranks.size() == 1:
        return dict(sums)
    told = json.dumps(sums).encode()
    everywhere: dict[str, tuple[float, float]] = {}
    for rank in range(ranks.size()):
        for name, (total, weights) in json.loads(ranks.broadcast_bytes(told, root=rank)).items():
            before = everywhere.get(name, (0.0, 0.0))
            everywhere[name] = before[0] + total, before[1] + weights
    return everywhere


def numbers_of(trainer: BilevelTrainer, batch: Batch) -> dict[str, Any]:
    """The upper loss of a batch as ``ul_loss``, and the trainer's metrics."""
    objective, models = trainer.current_run.problem.ul_objective, (trainer.ul_model, trainer.ll_model)
    numbers: dict[str, Any] = {"ul_loss": levels.call(objective, batch, *models, parameters=trainer.ll_var)}
    for name, metric in trainer.metrics.items():
        numbers[name] = levels.result_of(metric, batch, *models, parameters=trainer.ll_var)
    return numbers


def means_over(trainer: BilevelTrainer, loader: Any, unknown_size: UnknownSize) -> dict[str, float]:
    """The means of a trainer's ``evaluation_step`` over a loader; see ``evaluate``."""
    check_loader(loader, "loader")
    run = trainer.current_run
    step = measuring([trainer.ul_model, trainer.ll_model], run.logged.of_evaluation(trainer.evaluation_step))
    out_of_memory = device_memory.named("evaluate", trainer.state.step + 1)
    with device_scope(trainer.device, run.half_precision), out_of_memory, as_wide_as(trainer.ll_var):
        return weighted_means(loader, step, trainer.evaluation_batch_size, unknown_size.warn, run.adapted)
