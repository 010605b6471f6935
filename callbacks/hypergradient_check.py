"""Check hypergradients while training."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, NamedTuple

from jboat.callbacks import argument_checks
from jboat.callbacks.callback import Callback
import numpy as np

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer
    from jboat.trainers.outer_step.result import HyperGradientResult
    from jboat.trainers.trainer_state import TrainerState

_logger = logging.getLogger("jboat")

_SMALLER = 4.0
"""The second radius is so many times smaller than the first."""


class Comparison(NamedTuple):
    """Slopes along some directions beside differences in two radii.

    Attributes:
        error: the norm of slopes minus differences relative to that of the differences, in the radius asked for.
        cosine: the cosine of the angle between the two.
        difference_error: how far the differences can be trusted, in the same unit: how far those in the two radii are
            apart, and what rounding may add.
        verdict: 1 for right, 0 for inconclusive, -1 for wrong.
    """

    error: float
    cosine: float
    difference_error: float
    verdict: int


def compared(slopes: np.ndarray, wide: np.ndarray, narrow: np.ndarray, rounding: float, tolerance: float) -> Comparison:
    """Judge a gradient by central differences.

    Args:
        slopes: the gradient's product with each direction.
        wide: the differences in the radius asked for.
        narrow: those in the smaller radius.
        rounding: how much of a difference in the smaller radius may be rounding.
        tolerance: the relative error up to which a gradient is right.

    Returns:
        The comparison. A gradient within ``tolerance`` of differences that are themselves accurate to it is right; one
        that is farther from both than they can be trusted is wrong; everything else is inconclusive.
    """
    size = max(float(np.linalg.norm(wide)), 1e-30)
    errors = [float(np.linalg.norm(slopes - difference)) / size for difference in (wide, narrow)]
    uncertain = (float(np.linalg.norm(wide - narrow)) + rounding * len(wide) ** 0.5) / size
    if not np.isfinite([*errors, uncertain]).all():
        verdict = 0
    elif max(errors[0], uncertain) <= tolerance:
        verdict = 1
    elif min(errors) > max(tolerance, 2.0 * uncertain):
        verdict = -1
    else:
        verdict = 0
    norms = max(float(np.linalg.norm(slopes)) * size, 1e-30)
    return Comparison(errors[0], float(slopes @ wide) / norms, uncertain, verdict)


class HypergradientCheck(Callback):
    """Compares the hypergradient with central finite differences along random directions.

    Of chains the difference is that of the unrolled value ``F(x, y_K(x))``, which RAD differentiates exactly; an
    operator that approximates shows here by how much. DM, first-order and single-loop methods move x along the
    derivative of a value of their own by x alone (where estimates from other batches are part of the direction, plus
    a linear term for these): the difference is that of this value, with y, multiplier, weights and all else held as in
    the step. It tells whether their direction is computed rightly, not how far it is from the hypergradient. Such
    methods of the user's are refused where they do not give ``FirstOrderStep.value``, or ``"value"`` in DM's place. The
    difference is taken in two radii, since one alone cannot tell a wrong gradient from an inaccurate
    difference: too large a step bends, or crosses kinks, too small a one drowns in rounding. Where the two differ as
    much as the gradient does, the check is inconclusive. Metrics of the steps that are checked:

    * ``hypergradient_error``: relative to the difference, in the Euclidean norm over the directions;
    * ``hypergradient_cosine``: of the angle between the two;
    * ``hypergradient_difference_error``: how far the difference itself can be trusted, in the unit of the error;
    * ``hypergradient_verdict``: 1 right, 0 inconclusive, -1 wrong, also in a line of the log;
    * ``lower_gradient_norm``: see LowerGradientNorm.

    Gradients are looked at as they were before GradientClipping, wherever that stands. Each direction costs four lower
    loops, or four of the method's own values. Without a lower loop, an objective that draws random numbers, as dropout
    does, draws others in the differences than in the step, and cannot be checked.

    Args:
        every_n_steps: check one outer step in so many.
        directions: how many directions.
        radius: the length of a step along a direction, relative to the norm of x (at least 1); the second radius is a
            quarter of it.
        tolerance: the relative error up to which a hypergradient is right.

    Raises:
        TypeError: for an argument that is no number.
        ValueError: for one out of range.
    """

    later_metrics = (
        "hypergradient_error",
        "hypergradient_cosine",
        "hypergradient_difference_error",
        "hypergradient_verdict",
        "lower_gradient_norm",
    )

    def __init__(
        self, every_n_steps: int = 100, directions: int = 4, radius: float = 1e-2, tolerance: float = 0.05
    ) -> None:
        for name, n in (("every_n_steps", every_n_steps), ("directions", directions)):
            argument_checks.integer(name, n)
        for name, size in (("radius", radius), ("tolerance", tolerance)):
            argument_checks.number(name, size)
        if every_n_steps < 1 or directions < 1:
            raise ValueError(f"every_n_steps and directions must be at least 1, got {every_n_steps} and {directions}")
        if not (0.0 < radius < math.inf and 0.0 < tolerance < math.inf):
            raise ValueError(
                f"radius and tolerance must be positive and the radius finite, got {radius} and {tolerance}"
            )
        self._every = every_n_steps
        self._directions = directions
        self._radius = radius
        self._tolerance = tolerance
        self._found: dict[str, float] = {}

    def on_before_upper_step(self, trainer: BilevelTrainer, state: TrainerState, result: HyperGradientResult) -> None:
        """Compare, one step in so many.

        Raises:
            ValueError: at the first step of a method that has no value to take differences of.
        """
        run = trainer.current_run
        if result.value is None and not run.method.has_lower_loop:
            raise ValueError(
                f"HypergradientCheck cannot check {run.method.name}: it has no lower loop that gives F(x, y_K(x)), and "
                "does not tell the value whose derivative by x its direction is (FirstOrderStep.value, or 'value' of "
                "an operator in DM's place). Let it tell, or take HypergradientCheck out of callbacks; "
                "LowerGradientNorm shows how far y is from the lower solution"
            )
        self._found = {}
        if result.skip or (state.step + 1) % self._every:
            return
        raw = result.gradients if result.unclipped is None else result.unclipped
        gradients = [g.numpy().astype(np.float64) for g in raw]
        rng = np.random.default_rng(state.step)
        x = [v.numpy().copy() for v in trainer.ul_var]
        length = self._radius * max(1.0, _norm(x))
        slopes, differences, largest = [], [], 0.0
        for _ in range(self._directions):
            direction = [rng.normal(size=v.shape) for v in x]
            norm = _norm(direction)
            direction = [d / norm for d in direction]
            slopes.append(sum(float(np.vdot(g, d)) for g, d in zip(gradients, direction, strict=True)))
            radii = []
            for step in (length, length / _SMALLER):
                ends = [
                    run.value(
                        [(v + sign * step * d).astype(v.dtype) for v, d in zip(x, direction, strict=True)], result
                    )
                    for sign in (1.0, -1.0)
                ]
                radii.append((ends[0] - ends[1]) / (2 * step))
                largest = max(largest, *map(abs, ends))
            differences.append(radii)
        wide, narrow = np.array(differences).T
        precision = max(float(np.finfo(v.dtype).eps) for v in x)
        rounding = precision * largest * _SMALLER / length
        found = compared(np.array(slopes), wide, narrow, rounding, self._tolerance)
        self._report(found, state.step + 1, unrolled=run.method.has_lower_loop)
        self._found = {
            "hypergradient_error": found.error,
            "hypergradient_cosine": found.cosine,
            "hypergradient_difference_error": found.difference_error,
            "hypergradient_verdict": float(found.verdict),
            "lower_gradient_norm": run.lower_gradient_norm(result.ll_parameters),
        }

    def on_step_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Publish what was found."""
        state.metrics.update(self._found)

    def _report(self, found: Comparison, step: int, *, unrolled: bool) -> None:
        words = {1: "right", 0: "inconclusive", -1: "wrong"}[found.verdict]
        advice = {
            0: "; the difference is no more accurate than that: take another radius",
            -1: "; an operator that approximates may be so far from the derivative of the lower loop that was run"
            if unrolled
            else "",
        }
        _logger.log(
            logging.INFO if found.verdict == 1 else logging.WARNING,
            "HypergradientCheck at outer step %d: %s (error %.2g, cosine %.4f, the difference's own error %.2g)%s",
            step,
            words,
            found.error,
            found.cosine,
            found.difference_error,
            advice.get(found.verdict, ""),
        )


def _norm(arrays: list[np.ndarray]) -> float:
    return float(np.linalg.norm(np.concatenate([a.ravel() for a in arrays]).astype(np.float64)))
