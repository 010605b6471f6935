"""What happens where the GPU's memory does not suffice."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import traceback

from jboat.backend import out_of_memory
from jboat.trainers.errors import DeviceMemoryError
import jittor as jt

_ADVICE = (
    "Try a smaller batch, a smaller tasks_together, lower_micro_batches, or fewer lower_iters; with RAD or IAD "
    "solver_config={'RAD': {'remat_every': S}}, which keeps the graphs of S lower steps at a time, or {'RAD': "
    "{'checkpoints': C}}, which keeps C iterates; or an operator that needs the memory of one lower step, such as CG "
    "or FD."
)


@contextlib.contextmanager
def named(operator: str, step: int) -> Iterator[None]:
    """Say where memory ran out inside the block, and let go of what was computed there.

    Jittor keeps an operation that failed for as long as anything holds its result, as the frames of an exception do,
    and then fails at every later step as well.

    Args:
        operator: the operator at work.
        step: the outer step, counted from 1.

    Raises:
        DeviceMemoryError: in place of what Jittor raises.
    """
    try:
        yield
        return
    except RuntimeError as error:
        said = out_of_memory.told_by(error)
        if isinstance(error, DeviceMemoryError) or said is None:
            raise
        original = "".join(traceback.format_exception(error))
        traceback.clear_frames(error.__traceback__)
    jt.gc()
    raise DeviceMemoryError(f"{_ADVICE} Jittor said: {said}", operator=operator, step=step, original=original)
