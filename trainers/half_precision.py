"""Whether models can compute in half precision here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math
from numbers import Real
from typing import Any, get_args

from jboat import functional
from jboat.backend import cuda_driver
from jboat.loss_scale import LossScale
from jboat.precision import HalfPrecision, PrecisionName
from jboat.trainers import arguments
import jittor as jt

NAMES = get_args(PrecisionName)
_AMPERE = 80  # the first with bfloat16


def checked(
    precision: str, loss_scale: float | None, device: str, variables: Mapping[str, Sequence[jt.Var]]
) -> HalfPrecision | None:
    """The precision of a trainer's models; None for float32.

    Args:
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        loss_scale: a fixed factor for fp16's losses; None for a dynamic one.
        device: where it runs, ``"cpu"`` or ``"cuda"``.
        variables: those of both levels and of both models, by what they are called in a message.

    Raises:
        TypeError: if ``loss_scale`` is no number.
        ValueError: for another word, on a device that has no such products, for models that are not of float32, or for
            a factor that is out of range or of no use.
    """
    arguments.choice("precision", precision, NAMES)
    scale = _checked_scale(loss_scale, precision)
    if precision == "fp32":
        return None
    _require_device(precision, device)
    for name, listed in variables.items():
        others = [str(v.dtype) for v in listed if functional.is_float(v) and v.dtype != "float32"]
        if others:
            raise ValueError(
                f"precision {precision!r} is for models of float32, whose products alone are computed in half, and "
                f"{name} has variables of {others[0]}"
            )
    if jt.flags.amp_reg:
        raise ValueError(
            f"precision {precision!r} and Jittor's own mixed precision (jt.flags.auto_mixed_precision_level, amp_reg) "
            "do not go together, and Jittor's keeps more than products in half: set its flags to 0"
        )
    if precision == "bf16":
        return HalfPrecision("bf16", None)
    return HalfPrecision("fp16", LossScale(scale))


def word(precision: str) -> str:
    """A precision's name where nothing but the name can be looked at, as in a file.

    Raises:
        ValueError: for another word.
    """
    arguments.choice("precision", precision, NAMES)
    return precision


def _checked_scale(loss_scale: Any, precision: str) -> float | None:
    if loss_scale is None:
        return None
    if isinstance(loss_scale, bool) or not isinstance(loss_scale, Real):
        raise TypeError(f"loss_scale must be a number or None, got {loss_scale!r}")
    if not 0.0 < float(loss_scale) < math.inf:
        raise ValueError(f"loss_scale must be positive and finite, got {loss_scale!r}")
    if precision != "fp16":
        raise ValueError(f"loss_scale is for precision 'fp16' alone, got {loss_scale!r} with precision {precision!r}")
    return float(loss_scale)


def _require_device(precision: str, device: str) -> None:
    if device != "cuda":
        from jboat.backend import half_arithmetic  # which starts Jittor

        if half_arithmetic.is_emulated():
            return
        raise ValueError(
            f"precision {precision!r} needs a GPU (device='cuda'): Jittor's products in half are plain loops on a CPU, "
            "measured 18 to 1200 times slower than in float32, and sum in 16 bits. Use precision='fp32'"
        )
    if getattr(jt.compile_extern, "cublas_ops", None) is None:
        raise ValueError(f"precision {precision!r} needs cuBLAS; `python -m jboat doctor` says what is missing")
    older = [own for own in cuda_driver.find().capabilities if own < _AMPERE]
    if precision == "bf16" and older:
        raise ValueError(
            f"precision 'bf16' needs GPUs of compute capability 8.0 or later, and one that can be seen has "
            f"{min(older) / 10}; use 'fp16' or 'fp32', or hide it by CUDA_VISIBLE_DEVICES"
        )
