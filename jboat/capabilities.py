"""What an operator does in a chain, said by its class.

A class names its capabilities in the attribute ``capabilities``; whoever has to act on them asks for the capability and
never for the name, so that an operator of the user's is treated like the built-in whose place it takes. Those that
depend on options are functions of the operator's options.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from jboat.trajectory import Trajectory
    import jittor as jt

MultiplierUpdate = Literal["gradient step", "line search"]


class IterateChoice(Protocol):
    """Looks at the iterates of a lower loop as they come, and chooses one to be the last."""

    def look_at(self, step: int, trajectory: Trajectory) -> None:
        """Take note of y_step, the last iterate of ``trajectory``."""

    def chosen(self) -> int:
        """The inner step of the choice."""


@dataclass(frozen=True)
class LowerCapabilities:
    """What a lower-level operator does besides running.

    Attributes:
        weight: the lower steps minimise a mixture of both objectives: ``weight(options, step)`` is that of the upper
            one at inner step ``step``, from 0.
        next_start: y_0 is learned: ``next_start(options, start, gradient)`` is where it moves after an outer step,
            given y_0 and dF(y_K)/dy_0, all lists with one Var per lower-level variable.
        moves_multiplier: it takes one step of y, x and a multiplier an outer step, instead of a lower loop.
        stacks_tasks: where objectives are sums over tasks and y has a first axis of tasks, it moves each task's y as it
            would alone.
    """

    weight: Callable[[Any, int], float] | None = None
    next_start: Callable[[Any, Sequence[jt.Var], Sequence[jt.Var]], list[jt.Var]] | None = None
    moves_multiplier: bool = False
    stacks_tasks: bool = False


@dataclass(frozen=True)
class UpperCapabilities:
    """What a hypergradient operator wants of the lower loop, and what it does to the operators after it.

    Attributes:
        starts_from_x: the upper-level variables are the initialisation, from which the lower loop starts.
        proximal: where a Hessian is solved with after it, every lower step minimises ``phi + lam / 2 ||y - y_0||^2``
            besides, with ``lam = proximal(options)``.
        chooses_iterate: the operators after it see the trajectory up to an iterate that is chosen while the lower loop
            runs: ``chooses_iterate(upper_loss)`` makes what chooses, ``upper_loss(trajectory)`` being F at the last
            iterate, a Var without a graph.
        tracked_from: the operators after it see the first ``tracked_from(options)`` lower steps as constants.
        constant_gradients: the operators after it see inner gradients as constants.
        pulls_back: it differentiates the lower steps, whose graphs are kept for it.
        rebuilt_at_once: ``rebuilt_at_once(options)`` is how many steps a pullback rebuilds at once where no graph is to
            be kept, and 0 where graphs are.
        checkpoints: ``checkpoints(options)`` is how many iterates of a lower loop are kept, between which steps are
            taken again: at least 2, 0 for all of them, or ``"auto"`` for what the memory holds.
        solves_with_hessian: it solves with the Hessian of the lower objective at the last iterate.
        second_derivatives: it needs second derivatives of the lower objective for another reason than those above.
        sees_lower_step: whether, by ``sees_lower_step(options)``, it differentiates the lower optimizer's own step, and
            with it a projection, without pulling back through all of them. None where it never does.
        keeps: ``keeps(options)`` names what it remembers from one outer step to the next: lists with one Var per
            lower-level variable, which it is given, and returns, by these names.
        multiplier_update: how a multiplier moves when this operator alone stands beside the multiplier step.
        stacks_tasks: where objectives are sums over tasks and y has a first axis of tasks, its hypergradient is the sum
            of what it is for each alone, or with ``starts_from_x`` the list of these along that axis.
    """

    starts_from_x: bool = False
    proximal: Callable[[Any], float] | None = None
    chooses_iterate: Callable[[Callable[[Trajectory], jt.Var]], IterateChoice] | None = None
    tracked_from: Callable[[Any], int] | None = None
    constant_gradients: bool = False
    pulls_back: bool = False
    rebuilt_at_once: Callable[[Any], int] | None = None
    checkpoints: Callable[[Any], int | str] | None = None
    solves_with_hessian: bool = False
    second_derivatives: bool = False
    sees_lower_step: Callable[[Any], bool] | None = None
    keeps: Callable[[Any], tuple[str, ...]] | None = None
    multiplier_update: MultiplierUpdate | None = None
    stacks_tasks: bool = False


Capabilities = LowerCapabilities | UpperCapabilities
