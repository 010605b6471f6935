"""Estimates of a full direction from those of batches: one object an estimator, over lists of directions.

None of them holds anything: what one remembers is handed to it and comes back, so that a step that is not taken
changes nothing, and a checkpoint holds it all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from jboat import functional
import jittor as jt

Vars: TypeAlias = "Sequence[jt.Var]"


@dataclass(frozen=True)
class MovingAverage:
    """``d = (1 - theta) d + theta g``, g the direction of the present batch; at first g.

    Attributes:
        theta: the weight of the present batch.
    """

    theta: float

    def __call__(self, now: Vars, last: Vars | None) -> list[jt.Var]:
        """The estimate.

        Args:
            now: g.
            last: the estimate of the step before; None at the first step.
        """
        if last is None:
            return list(now)
        return functional.axpy(self.theta, functional.axpy(-1.0, last, now), last)


@dataclass(frozen=True)
class Storm:
    """``d = g + (1 - eta) (d - g')``, g' the direction of the same batch at the point of the step before; at first g.

    With ``eta = 1`` it is g, with ``eta = 0`` SARAH.

    Source: Cutkosky and Orabona, "Momentum-based variance reduction in non-convex SGD", NeurIPS 2019.

    Attributes:
        eta: how much of the past is forgotten.
    """

    eta: float

    def __call__(self, now: Vars, before: Vars, last: Vars) -> list[jt.Var]:
        """The estimate.

        Args:
            now: g.
            before: g'.
            last: the estimate of the step before.
        """
        return functional.axpy(1.0 - self.eta, functional.axpy(-1.0, before, last), now)


SARAH = Storm(0.0)
"""``d = d + g - g'``, for a d that starts, and starts again, from the full direction.

Source: Nguyen, Liu, Scheinberg and Takac, "SARAH: a novel method for machine learning problems using stochastic
recursive gradient", ICML 2017.
"""


@dataclass(frozen=True)
class Saga:
    """``d = g - m_i + mean(m)``, m_i the direction of batch i when it was last seen, which g then replaces.

    What was not seen yet counts as zero, as if it had been, so that the estimate is unbiased from the first step on.

    Source: Defazio, Bach and Lacoste-Julien, "SAGA: a fast incremental gradient method with support for non-strongly
    convex composite objectives", NIPS 2014.

    Attributes:
        name: under which it remembers: ``name.i`` what was seen of batch i, ``name.sum`` their sum.
        batches: how many there are.
    """

    name: str
    batches: int

    def __call__(
        self, now: Vars, index: int, memory: Mapping[str, list[jt.Var]]
    ) -> tuple[list[jt.Var], dict[str, list[jt.Var]]]:
        """The estimate, and what changes in the memory.

        Args:
            now: g.
            index: i.
            memory: what was remembered so far of the same batches.
        """
        of_batch, of_all = f"{self.name}.{index}", f"{self.name}.sum"
        unknown = [] if of_batch in memory and of_all in memory else functional.cut([jt.zeros_like(v) for v in now])
        total = memory.get(of_all, unknown)
        change = functional.axpy(-1.0, memory.get(of_batch, unknown), now)
        estimate = functional.axpy(1.0 / self.batches, total, change)
        return estimate, {of_batch: list(now), of_all: functional.axpy(1.0, change, total)}
