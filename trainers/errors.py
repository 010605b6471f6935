"""What can go wrong while training."""

from __future__ import annotations


class SecondOrderError(RuntimeError):
    """An operation in the lower objective has a wrong second derivative, which the chosen chain needs."""


class DeviceMemoryError(RuntimeError):
    """The memory of the GPU did not suffice; the trainer is as it was after the last outer step.

    Attributes:
        operator: the operator at work, such as ``"NGD"`` or ``"RAD"``.
        step: the outer step, counted from 1.
        original: the traceback of what was raised first, as text: its frames would keep the memory.
    """

    def __init__(self, advice: str, *, operator: str, step: int, original: str) -> None:
        super().__init__(f"{operator}: out of GPU memory at outer step {step}. {advice}")
        self.operator = operator
        self.step = step
        self.original = original


class NonFiniteError(ArithmeticError):
    """A loss or a gradient became NaN or infinite.

    Attributes:
        what: what is not finite.
        operator: the operator at work, such as ``"NGD"`` or ``"RAD"``.
        step: the outer step, counted from 1.
        inner_step: the lower step, counted from 1; None where the upper level failed.
    """

    def __init__(self, what: str, *, operator: str, step: int, inner_step: int | None = None) -> None:
        place = f"outer step {step}" + ("" if inner_step is None else f", inner step {inner_step}")
        super().__init__(f"{operator}: {what} at {place}")
        self.what = what
        self.operator = operator
        self.step = step
        self.inner_step = inner_step
