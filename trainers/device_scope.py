"""Run on a device, with gradients made for it."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib

from jboat.backend.flag_blocks import flag
from jboat.fast_gradients import fast_gradients


@contextlib.contextmanager
def device_scope(device: str) -> Iterator[None]:
    """Run on the device inside the block, with gradients made for it; the user's flag comes back at its end."""
    with flag("use_cuda", int(device == "cuda")), fast_gradients(), _types_named():
        yield


@contextlib.contextmanager
def _types_named() -> Iterator[None]:
    """Say what a compiler's words on a product of different types mean.

    Raises:
        TypeError: in the place of such a RuntimeError.
    """
    try:
        yield
    except RuntimeError as error:
        if "support float32 only" not in str(error):
            raise
        raise TypeError(
            "Jittor multiplies no float32 matrix with a float64 one: cast one of the two, as by "
            "batch['data'].float64() where the model is in float64, or batch['data'].float32(). Arrays in batches that "
            "are no Vars become float64 by themselves where all lower-level variables are"
        ) from error
