"""Run on a device, with gradients made for it."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import logging
import traceback

from jboat.backend.flag_blocks import flag
from jboat.fast_gradients import fast_gradients
from jboat.precision import HalfPrecision, used
import jittor as jt

_logger = logging.getLogger("jboat")


@contextlib.contextmanager
def device_scope(device: str, precision: HalfPrecision | None = None) -> Iterator[None]:
    """Run on the device inside the block, with gradients made for it; the user's flags come back at its end.

    Args:
        device: ``"cpu"`` or ``"cuda"``.
        precision: in which models compute; None for float32.
    """
    # with Jittor's tensor cores on, products of half would be summed in half
    sums = flag("use_tensorcore", 0) if precision is not None else contextlib.nullcontext()
    with flag("use_cuda", int(device == "cuda")), sums, used(precision), fast_gradients(), _types_named():
        yield


@contextlib.contextmanager
def _types_named() -> Iterator[None]:
    """Say what a compiler's words on a product of different types mean.

    Raises:
        TypeError: in the place of such a RuntimeError.
    """
    try:
        yield
        return
    except RuntimeError as error:
        if "support float32 only" not in str(error):
            raise
        original = "".join(traceback.format_exception(error))
        traceback.clear_frames(error.__traceback__)  # what they hold fails again whenever anything is computed
    jt.gc()
    _logger.debug("%s", original)
    raise TypeError(
        "Jittor multiplies no float32 matrix with a float64 one: cast one of the two, as by batch['data'].float64() "
        "where the model is in float64, or batch['data'].float32(). Arrays in batches that are no Vars become float64 "
        "by themselves where all lower-level variables are"
    )
