"""Run on a device, with gradients made for it."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib

from jboat.fast_gradients import fast_gradients
import jittor as jt


@contextlib.contextmanager
def device_scope(device: str) -> Iterator[None]:
    """Run on the device inside the block, with gradients made for it; the user's flag comes back at its end."""
    with jt.flag_scope(use_cuda=int(device == "cuda")), fast_gradients():
        yield
