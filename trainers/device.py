"""Which device Jittor runs on."""

from __future__ import annotations

from jboat.trainers import arguments
import jittor as jt


def checked(device: str) -> str:
    """``"cpu"`` or ``"cuda"`` for what the user asked.

    Raises:
        ValueError: for another word, or ``"cuda"`` where Jittor was started without it.
    """
    arguments.choice("device", device, ("auto", "cpu", "cuda"))
    if device == "cuda" and not jt.has_cuda:
        raise ValueError(
            "device is 'cuda', but Jittor runs without CUDA; `python -m jboat doctor` says what is missing"
        )
    if device == "auto":
        return "cuda" if jt.has_cuda else "cpu"
    return device
