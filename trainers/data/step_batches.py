"""What one outer step trains on."""

from __future__ import annotations

from collections.abc import Callable

from jboat.trainers.data.loader_stream import LoaderStream
from jboat.trainers.data.loaders import Batch, Item, Task

Feed = Batch | list[Batch]
Pair = tuple[Feed, Feed]
"""A lower batch, or a list of them, and an upper one, or a list where a method takes several."""


def draw_pairs(
    ll_stream: LoaderStream, ul_stream: LoaderStream, *, pairs: int, lower_iters: int, fresh: bool
) -> list[Pair] | None:
    """What one outer step of chains, or of a method with one batch of each level, trains on.

    Args:
        ll_stream: lower batches; the epoch is a pass over them.
        ul_stream: upper batches.
        pairs: how many hypergradients the step averages.
        lower_iters: K.
        fresh: whether each lower step gets a batch of its own.

    Returns:
        One (lower, upper) pair per hypergradient, the lower part a list of K batches when ``fresh``; None where the
        pass over the lower batches has ended.

    Raises:
        ValueError: if one level gives a list of tasks and the other something else, or another number of them.
    """
    draw: Callable[[], Item | None] = ll_stream.draw
    result: list[Pair] = []
    for _ in range(pairs):
        lower = []
        for _ in range(lower_iters if fresh else 1):
            item = draw()
            if item is None:
                return None
            lower.append(item)
            draw = ll_stream.draw_cycling
        upper = ul_stream.draw_cycling()
        result += task_pairs(lower, upper, fresh)
    return result


def draw_counted(ll_stream: LoaderStream, ul_stream: LoaderStream, *, lower: int, upper: int) -> list[Pair] | None:
    """What one outer step trains on that takes several batches of each level.

    Args:
        ll_stream: lower batches; the epoch is a pass over them.
        ul_stream: upper batches.
        lower: how many lower batches.
        upper: how many upper batches.

    Returns:
        One pair of lists; None where the pass over the lower batches has ended.

    Raises:
        ValueError: if a loader gives a list of tasks.
    """
    first = ll_stream.draw()
    if first is None:
        return None
    items = [
        [first, *(ll_stream.draw_cycling() for _ in range(lower - 1))],
        [ul_stream.draw_cycling() for _ in range(upper)],
    ]
    batches = [[item for item in of_level if isinstance(item, dict)] for of_level in items]
    if [len(of_level) for of_level in batches] != [lower, upper]:
        raise ValueError("a single-loop method takes single batches, but a loader gave a list of tasks")
    return [(batches[0], batches[1])]


def task_pairs(lower: list[Item], upper: Item, fresh: bool) -> list[Pair]:
    """One (lower, upper) pair a task, or the single pair where batches are no lists of tasks.

    Args:
        lower: one item, or K of them when ``fresh``; each a batch or a list with one batch a task.
        upper: a batch or a list with one batch a task.
        fresh: whether each lower step gets a batch of its own.

    Raises:
        ValueError: if the lists differ in length, or lists and single batches are mixed.
    """
    if any(isinstance(entry, Task) for item in [*lower, upper] if isinstance(item, list) for entry in item):
        raise ValueError(
            "(support, query) pairs are for evaluations; to train, ll_loader gives lists of support batches and "
            "ul_loader lists of query batches"
        )
    counts = {len(item) if isinstance(item, list) else None for item in [*lower, upper]}
    if len(counts) > 1:
        raise ValueError(f"both loaders must give the same number of tasks in a list, or single batches; got {counts}")
    if not isinstance(upper, list):
        singles = [item for item in lower if isinstance(item, dict)]
        return [(singles if fresh else singles[0], upper)]
    pairs: list[Pair] = []
    for task, ul_batch in enumerate(upper):
        of_task = [item[task] for item in lower if isinstance(item, list)]
        pairs.append((of_task if fresh else of_task[0], ul_batch))
    return pairs
