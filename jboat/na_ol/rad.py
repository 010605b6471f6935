"""RAD: reverse automatic differentiation through the lower steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jboat import functional
from jboat.capabilities import UpperCapabilities
from jboat.levels import Batch
from jboat.na_ol.hyper_gradient import HyperGradientOperator
from jboat.registry import register_operator
from jboat.spelling import nearest
from jboat.trajectory import Trajectory


@dataclass(frozen=True)
class RADOptions:
    """Options of RAD.

    Attributes:
        remat_every: 0 keeps the graph of every lower step; S > 0 keeps only the iterates and rebuilds S steps at a
            time, for the memory of S steps instead of K.
        checkpoints: 0 keeps all iterates; C >= 2 keeps C of them, and no graphs: going backwards, steps are taken again
            by the binomial schedule, for the memory of one step and C iterates whatever K is. ``"auto"`` keeps all
            graphs if half of the memory that is free when training starts holds them, else as many iterates as fit.
    """

    remat_every: int = 0
    checkpoints: int | str = 0

    def __post_init__(self) -> None:
        if not isinstance(self.remat_every, int) or self.remat_every < 0:
            raise ValueError(f"solver_config['RAD']['remat_every'] must be an integer >= 0, got {self.remat_every!r}")
        given = self.checkpoints
        number = isinstance(given, int) and not isinstance(given, bool) and (given == 0 or given >= 2)
        if given != "auto" and not number:
            near = nearest(given, ["auto"]) if isinstance(given, str) else ""
            raise ValueError(
                "solver_config['RAD']['checkpoints'] must be an integer >= 2, 'auto', or 0 for none, got "
                f"{given!r}.{near}"
            )
        if given != 0 and self.remat_every:
            raise ValueError(
                "solver_config['RAD'] has both remat_every, which keeps all iterates, and checkpoints, which keeps few "
                f"of them; leave one out, got {self.remat_every} and {given!r}"
            )


def rebuilt_at_once(options: RADOptions) -> int:
    """S, how many steps are rebuilt at once; 0 where graphs are kept."""
    return options.remat_every


def checkpoints(options: Any) -> int | str:
    """C, how many iterates are kept; 0 for all, and where an operator's own options have no such number."""
    found: int | str = getattr(options, "checkpoints", 0)
    return found


@register_operator(
    "na",
    options=RADOptions,
    cost="K Hessian-vector products; memory of K steps, or of remat_every steps and K more gradients, or of a step and "
    "checkpoints iterates and about K log K more gradients",
)
class RAD(HyperGradientOperator):
    """``d/dx F(x, y_K(x))``, exact through every step of the lower-level optimizer and its state.

    Source: Franceschi, Donini, Frasconi and Pontil, "Forward and reverse gradient-based hyperparameter optimization",
    ICML 2017.
    """

    capabilities = UpperCapabilities(
        pulls_back=True,
        rebuilt_at_once=rebuilt_at_once,
        checkpoints=checkpoints,
        multiplier_update="gradient step",
        stacks_tasks=True,
    )

    def compute_gradients(
        self,
        ll_feed_dict: Batch | Sequence[Batch],
        ul_feed_dict: Batch,
        auxiliary_model: Trajectory,
        max_loss_iter: int = 0,
        next_operation: str | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Compute the hypergradient.

        Args:
            ll_feed_dict: unused: the trajectory holds the lower steps.
            ul_feed_dict: the upper batch.
            auxiliary_model: the trajectory.
            max_loss_iter: unused: PTT hands on a trajectory that ends there.
            next_operation: must be None.
            kwargs: ``hyper_gradient_finished``, if given, must be False; others are ignored.

        Returns:
            ``upper_loss``, ``hyper_gradient_finished`` and ``hyper_gradient``; with DI ``ll_init_gradient``.

        Raises:
            AssertionError: if the hypergradient is finished already or another operator follows.
        """
        self._require_terminal(next_operation, kwargs.get("hyper_gradient_finished", False))
        loss, by_x, by_y = self._upper(auxiliary_model, ul_feed_dict)
        initialised = self.dynamic_initialization
        through_y, by_start = auxiliary_model.pullback(
            by_y, self.ul_var, start=0 if initialised else None, by_start=initialised
        )
        return self._result(auxiliary_model, loss, functional.axpy(1.0, through_y, by_x), by_y, by_start)
