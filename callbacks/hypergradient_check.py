"""Check hypergradients while training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jboat.callbacks.callback import Callback
import numpy as np

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer
    from jboat.trainers.hypergradient_result import HyperGradientResult
    from jboat.trainers.trainer_state import TrainerState


class HypergradientCheck(Callback):
    """Compares the hypergradient with central finite differences of ``F(x, y_K(x))`` along random directions.

    The metrics ``hypergradient_error`` (relative, in the Euclidean norm over the directions) and
    ``hypergradient_cosine`` appear at the steps that are checked. The difference is that of the unrolled value, which
    RAD differentiates exactly; an operator that approximates shows here by how much. Each direction costs two lower
    loops. In float32 an error of about 1e-3 is rounding.

    Args:
        every_n_steps: check one outer step in so many.
        directions: how many directions.
        radius: the length of a step along a direction, relative to the norm of x (at least 1).

    Raises:
        ValueError: for an argument out of range.
    """

    later_metrics = ("hypergradient_error", "hypergradient_cosine")

    def __init__(self, every_n_steps: int = 100, directions: int = 4, radius: float = 1e-2) -> None:
        if every_n_steps < 1 or directions < 1:
            raise ValueError(f"every_n_steps and directions must be at least 1, got {every_n_steps} and {directions}")
        if not radius > 0.0:
            raise ValueError(f"radius must be positive, got {radius}")
        self._every = every_n_steps
        self._directions = directions
        self._radius = radius
        self._found: dict[str, float] = {}

    def on_before_upper_step(self, trainer: BilevelTrainer, state: TrainerState, result: HyperGradientResult) -> None:
        """Compare, one step in so many."""
        self._found = {}
        if (state.step + 1) % self._every:
            return
        rng = np.random.default_rng(state.step)
        x = [v.numpy().copy() for v in trainer.ul_var]
        length = self._radius * max(1.0, float(np.linalg.norm(np.concatenate([v.ravel() for v in x]))))
        slopes, differences = [], []
        for _ in range(self._directions):
            direction = [rng.normal(size=v.shape) for v in x]
            norm = np.linalg.norm(np.concatenate([d.ravel() for d in direction]))
            direction = [d / norm for d in direction]
            slopes.append(sum(float(np.vdot(g.numpy(), d)) for g, d in zip(result.gradients, direction, strict=True)))
            ends = [
                trainer.unrolled_value(
                    [(v + sign * length * d).astype(v.dtype) for v, d in zip(x, direction, strict=True)]
                )
                for sign in (1.0, -1.0)
            ]
            differences.append((ends[0] - ends[1]) / (2 * length))
        got, exact = np.array(slopes), np.array(differences)
        norms = np.linalg.norm(got) * np.linalg.norm(exact)
        self._found = {
            "hypergradient_error": float(np.linalg.norm(got - exact) / max(float(np.linalg.norm(exact)), 1e-30)),
            "hypergradient_cosine": float(got @ exact / max(float(norms), 1e-30)),
        }

    def on_step_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Publish what was found."""
        state.metrics.update(self._found)
