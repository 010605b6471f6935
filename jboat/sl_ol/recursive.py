"""What the methods share whose estimates look at the point before on the same batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from jboat import functional
from jboat.fo_ol.first_order import Auxiliary
from jboat.sl_ol.batches import StepBatches
from jboat.sl_ol.directions import Directions, LowerTerms, Point, UpperTerms, directions
from jboat.sl_ol.estimators import Storm
from jboat.sl_ol.single_loop import Keeps, Kept, SingleLoop


class Recursive(SingleLoop):
    """A method with estimates ``d = g + (1 - eta) (d - g')``, g' being g at the point of the step before.

    Attributes:
        recursive: which of the directions are estimated so; the others are those of the present batch.
        keeps: see :class:`SingleLoop`.
    """

    recursive: ClassVar[tuple[str, ...]] = ("y", "v", "x")
    keeps: ClassVar[Keeps] = {
        **{"v": "y", "d_y": "y", "d_v": "y", "d_x": "x"},
        **{"x_before": "x", "y_before": "y", "v_before": "y"},
    }

    def estimators(self, batches: StepBatches, current_iter: int, kept: Kept) -> Mapping[str, Storm]:
        """The estimator of each direction, by its name; one that has none is that of the step's batches alone.

        Args:
            batches: those of the step.
            current_iter: the number of the outer step, from 0.
            kept: what was remembered of the step before, which is not empty.
        """
        raise NotImplementedError(f"{type(self).__name__} must define estimators()")

    def estimates(
        self,
        lower: LowerTerms,
        upper: UpperTerms,
        point: Point,
        batches: StepBatches,
        current_iter: int,
        kept: Kept,
    ) -> tuple[Directions, Auxiliary]:
        """See :meth:`SingleLoop.estimates`."""
        now = directions(lower, upper)
        estimators = self.estimators(batches, current_iter, kept) if kept else {}
        if estimators:
            before = self.directions(Point(kept["x_before"], kept["y_before"], kept["v_before"]), batches)
            found = {
                name: estimator(getattr(now, name), getattr(before, name), kept[f"d_{name}"])
                for name, estimator in estimators.items()
            }
            now = now._replace(**found)
        remembered = {f"d_{name}": getattr(now, name) for name in self.recursive}
        leaves = {"x_before": functional.detached(point.x), "y_before": point.y, "v_before": point.v}
        return now, {**remembered, **leaves}
