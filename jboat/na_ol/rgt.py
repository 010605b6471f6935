"""RGT: reverse gradient truncation."""

from __future__ import annotations

from dataclasses import dataclass

from jboat.capabilities import UpperCapabilities
from jboat.chain_plan import ChainPlan
from jboat.na_ol.modifier import Modifier
from jboat.out_of_place import require
from jboat.registry import register_operator
from jboat.trajectory import Trajectory


@dataclass(frozen=True)
class RGTOptions:
    """Options of RGT.

    Attributes:
        truncate_iter: M, the number of first lower steps that leave no graph; set it between 1 and lower_iters - 1.
    """

    truncate_iter: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.truncate_iter, int) or self.truncate_iter < 0:
            raise ValueError(f"solver_config['RGT']['truncate_iter'] must be an integer, got {self.truncate_iter!r}")


def tracked_from(options: RGTOptions) -> int:
    """M, the number of steps without a graph."""
    return options.truncate_iter


@register_operator(
    "na",
    options=RGTOptions,
    cost="none; RAD after it needs K - M Hessian-vector products and the memory of K - M steps",
)
class RGT(Modifier):
    """The first M lower steps are constant: the next operator differentiates steps M..K alone.

    With DI the gradient by y_0 is that of the whole trajectory all the same; its first M steps are rebuilt for it.

    Source: Shaban, Cheng, Hatch and Boots, "Truncated back-propagation for bilevel optimization", AISTATS 2019.
    """

    capabilities = UpperCapabilities(tracked_from=tracked_from, stacks_tasks=True)

    @staticmethod
    def check_options(options: RGTOptions, plan: ChainPlan, lower_iters: int) -> None:
        """Refuse an M that cuts no lower step, or all of them.

        Raises:
            ValueError: if it does.
        """
        if not 1 <= options.truncate_iter < lower_iters:
            raise ValueError(
                f"solver_config['RGT']['truncate_iter'] must lie in 1..{lower_iters - 1} (lower_iters - 1), "
                f"got {options.truncate_iter}"
            )

    @property
    def truncate_iter(self) -> int:
        """M, the number of steps without a graph."""
        return int(self.options.truncate_iter)

    def modified(self, trajectory: Trajectory, max_loss_iter: int) -> Trajectory:
        """The trajectory tracked from inner step M.

        Raises:
            AssertionError: if ``truncate_iter`` is not positive.
        """
        require(self.truncate_iter > 0, "RGT needs solver_config['RGT']['truncate_iter'] > 0, less than lower_iters")
        return trajectory.since(self.truncate_iter)
