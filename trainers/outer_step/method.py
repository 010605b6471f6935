"""What every kind of outer step has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
import time
from typing import ClassVar

from jboat import autodiff, functional, levels, lower_objective
from jboat.optim import OptimizerState
from jboat.outer_step import OuterStep
from jboat.sl_ol.batches import Counts, Places
from jboat.trainers.data.loaders import Batch
from jboat.trainers.data.step_batches import Pair
from jboat.trainers.outer_step.problem import Problem
from jboat.trajectory import Trajectory
import jittor as jt


@dataclass(slots=True)
class Start:
    """Where an outer step starts.

    Attributes:
        step: the outer step under way, counted from 1.
        y: y_0, one Var per lower-level variable.
        ll_state: gives the lower optimizer's state before the step; None for a fresh one.
        reseed: seeds Jittor's generator for a lower step, or None.
        auxiliary: what the method kept from the step before, by name; empty at the first one.
        places: which batches of the loaders the step takes; None where they come from no loader.
    """

    step: int
    y: Sequence[jt.Var]
    ll_state: Callable[[], OptimizerState | None]
    reseed: Callable[[int], None] | None
    auxiliary: Mapping[str, list[jt.Var]]
    places: Places | None = None


@dataclass
class Events:
    """What the trainer does between the phases of an outer step, what it wants to know, and the seconds of each."""

    call: Callable[..., None] = lambda hook, *extra: None
    on_lower_step: Callable[[int, Trajectory], None] | None = None
    lower_losses: bool = False
    seconds: dict[str, float] = field(default_factory=lambda: {"lower": 0.0, "hypergradient": 0.0})

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the seconds of the block to those of a phase."""
        begun = time.perf_counter()
        yield
        self.seconds[phase] += time.perf_counter() - begun


class OuterMethod(ABC):
    """How an outer step moves y and finds the direction of x.

    Args:
        problem: the two levels and their operators.

    Attributes:
        has_lower_loop: whether a step runs K lower steps, which lead from x to y_K.
        takes_lists: whether a step takes a list of batches of each level, as many as :meth:`batches` tells.
        needs_fixed_batches: whether both loaders must give the same batches, in the same order, in every pass.
    """

    has_lower_loop: ClassVar[bool] = False
    takes_lists: ClassVar[bool] = False
    needs_fixed_batches: bool = False

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    @property
    @abstractmethod
    def name(self) -> str:
        """The operator that gives the direction of x."""

    @property
    @abstractmethod
    def keeps(self) -> Collection[str] | None:
        """The names that ``OuterStep.auxiliary`` always has; None where the method does not tell."""

    @property
    @abstractmethod
    def needs_second_derivatives(self) -> bool:
        """Whether, with its present options, it differentiates a gradient of the lower objective."""

    @abstractmethod
    def step(self, pair: Pair, start: Start, events: Events) -> OuterStep:
        """Take one step; nothing of the user's is changed but running statistics.

        Args:
            pair: the lower batch, or K of them, and the upper batch.
            start: where it starts.
            events: called between the phases.

        Returns:
            The step; its ``failure`` tells of a lower loss, or a y, that is NaN or infinite.
        """

    def kept_like(self, name: str) -> Sequence[jt.Var] | None:
        """Variables of the shapes of what ``OuterStep.auxiliary`` has under a name; None where it never has it."""
        return self.problem.ll_var if name in (self.keeps or ()) else None

    def batches(self, step: int, of: Counts | None, kept: Mapping[str, list[jt.Var]]) -> Counts:
        """How many batches of each level a step takes, where it takes lists.

        Args:
            step: the outer step, counted from 1.
            of: how many batches a pass over each loader has; None where that is not known.
            kept: what the method kept from the step before.
        """
        return Counts(1, 1)

    def unfinished(self, auxiliary: Mapping[str, list[jt.Var]]) -> bool:
        """Whether a direction of zero tells nothing yet, by what the method kept from the step before."""
        return False

    def unrolled_value(self, pairs: Sequence[Pair], starts: Sequence[Start], x: Sequence[jt.Var]) -> float:
        """F(x, y_K(x)) by running the lower loop, averaged over pairs of batches; nothing changes.

        Args:
            pairs: the lower batch, or K of them, and the upper batch of each.
            starts: where the loop of each starts.
            x: one Var per upper-level variable.

        Raises:
            ValueError: if there is no lower loop.
        """
        raise ValueError(f"there is no F(x, y_K(x)) with {self.name}, which has no lower loop")

    def adapted(self, support: Batch, start: Start) -> list[jt.Var]:
        """The end of the lower steps on one batch, from a start; F, and GDA's share of it, have no part in them.

        Raises:
            ValueError: if there is no lower loop.
        """
        raise ValueError(f"{self.name} has no lower loop, in which an evaluation could adapt to a task")

    def lower_gradient_norm(self, pair: Pair, start: Start, y: Sequence[jt.Var]) -> float:
        """The norm of the lower problem's gradient by y on the batch of the last lower step; nothing changes.

        The lower problem is f with the lower optimizer's coupled weight decay and implicit MAML's proximal term, but
        without GDA's share of F, so that a y off the lower solution shows whatever the lower steps minimised.
        """
        problem = self.problem
        last = problem.lower_iters - 1 if self.has_lower_loop else 0
        lower = lower_objective.LowerObjective(
            problem.ll_objective, problem.ul_objective, problem.ul_model, problem.config, aggregated=False
        )
        view = Trajectory(problem.ll_model, problem.ll_var, problem.ll_optimizer, initial=y)
        parameters = view.parameters()
        anchor, ul_batch = functional.detached(problem.ul_var), levels.batch_of_step(pair[1], 0)
        if start.reseed:
            start.reseed(last)
        with functional.preserved(functional.buffers(problem.ul_model)):
            loss = view.evaluate(
                lambda model: lower(model, problem.ll_var, last, pair[0], ul_batch, anchor), parameters
            )
        learned, decays = problem.learned, None
        if learned is not None and "weight_decay" in learned.names and view.update_rule.couples_weight_decay:
            decays = learned.numbers(start.step)["weight_decay"]
        loss = lower_objective.with_weight_decay(loss, parameters, view.update_rule, decays=decays)
        return functional.norm(functional.detached(autodiff.grad(loss, parameters)))
