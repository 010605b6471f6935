"""What a pair of chains wants of the lower loop and of the trainer, decided once, and its options."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jboat.capabilities import IterateChoice, MultiplierUpdate
from jboat.registered_operator import Operator

if TYPE_CHECKING:
    from jboat.trajectory import Trajectory
    import jittor as jt


@dataclass(frozen=True)
class ChainPlan:
    """The capabilities of a lower-level and a hypergradient chain together.

    Attributes:
        operators: the operators of both chains in the order they run.
        aggregator: the one that mixes the upper objective into the lower steps.
        start_learner: the one that learns y_0.
        multiplier_mover: the one that steps y, x and a multiplier in place of a lower loop.
        initializer: the one whose initialisation x is, so that lower loops start from x.
        chooser: the one that chooses the last iterate.
        truncator: the one that takes the first lower steps as constants.
        rebuilder: the one whose options say how many steps are rebuilt at once, or how many iterates are kept.
        implicit: whether every lower step is pulled towards x, the initialisation: implicit MAML.
        differentiates_steps: whether a cotangent is pulled back through the lower steps for the hypergradient.
        needs_second_derivatives: whether a lower gradient is differentiated.
        multiplier_update: how the multiplier moves.
    """

    operators: tuple[Operator, ...]
    aggregator: Operator | None
    start_learner: Operator | None
    multiplier_mover: Operator | None
    initializer: Operator | None
    chooser: Operator | None
    truncator: Operator | None
    rebuilder: Operator | None
    implicit: bool
    differentiates_steps: bool
    needs_second_derivatives: bool
    multiplier_update: MultiplierUpdate | None

    @classmethod
    def of(cls, lower: Iterable[Operator], upper: Iterable[Operator], *, rebuilder: Operator | None) -> ChainPlan:
        """The plan of two chains, whether or not they are in the grammar.

        Args:
            lower: the lower-level operators.
            upper: the hypergradient operators.
            rebuilder: whose options say how many steps are rebuilt at once where no operator of the chain has such.
        """
        lower, upper = tuple(lower), tuple(upper)
        implicit_solver = any(op.upper.solves_with_hessian for op in upper)
        initializer = _first(upper, lambda op: op.upper.starts_from_x)
        constant = any(op.upper.constant_gradients for op in upper)
        pulls_back = any(op.upper.pulls_back for op in upper) and not (constant or implicit_solver)
        start_learner = _first(lower, lambda op: op.lower.next_start is not None)
        multiplier_mover = _first(lower, lambda op: op.lower.moves_multiplier)
        return cls(
            operators=(*lower, *upper),
            aggregator=_first(lower, lambda op: op.lower.weight is not None),
            start_learner=start_learner,
            multiplier_mover=multiplier_mover,
            initializer=initializer,
            chooser=_first(upper, lambda op: op.upper.chooses_iterate is not None),
            truncator=_first(upper, lambda op: op.upper.tracked_from is not None),
            rebuilder=_first(upper, lambda op: op.upper.rebuilt_at_once is not None) or rebuilder,
            implicit=initializer is not None and initializer.upper.proximal is not None and implicit_solver,
            differentiates_steps=pulls_back,
            needs_second_derivatives=pulls_back
            or implicit_solver
            or start_learner is not None
            or multiplier_mover is not None
            or any(op.upper.second_derivatives for op in upper),
            multiplier_update=upper[0].upper.multiplier_update if len(upper) == 1 else None,
        )

    @property
    def pulls_back(self) -> bool:
        """Whether a cotangent is pulled back through the lower steps, for the hypergradient or to learn y_0."""
        return self.differentiates_steps or self.start_learner is not None

    @property
    def has_lower_loop(self) -> bool:
        """Whether an outer step runs K lower steps."""
        return self.multiplier_mover is None

    def without_graphs(self) -> ChainPlan:
        """The plan of the same lower steps where nothing is differentiated, nor an iterate chosen."""
        return dataclasses.replace(self, chooser=None, truncator=None, start_learner=None, differentiates_steps=False)

    def iterate_choice(self, upper_loss: Callable[[Trajectory], jt.Var]) -> IterateChoice | None:
        """What chooses the last iterate in a lower loop that begins, given F at the last iterate of a trajectory."""
        if self.chooser is None or self.chooser.upper.chooses_iterate is None:
            return None
        return self.chooser.upper.chooses_iterate(upper_loss)


class ChainOptions:
    """The options of a chain's operators: each made when it is first asked for, and again when its section changes.

    Args:
        plan: whose options these are.
        solver_config: the sections.
    """

    def __init__(self, plan: ChainPlan, solver_config: Mapping[str, Any]) -> None:
        self._plan = plan
        self._solver_config = solver_config
        self._known: dict[str, tuple[str | None, Any, Any]] = {}

    def of(self, operator: Operator) -> Any:
        """The options of an operator, of this chain or another; None where it has none.

        Raises:
            TypeError: if the section is not a mapping.
            ValueError: for an unknown key or a value out of range.
        """
        name = operator.section_in(self._solver_config)
        section = None if name is None else self._solver_config.get(name)
        known = self._known.get(operator.name)
        if known is None or known[0] != name or not _equal(known[1], section):
            kept = dict(section) if isinstance(section, Mapping) else section  # theirs may change in place
            known = self._known[operator.name] = name, kept, operator.options_in(self._solver_config)
        return known[2]

    def weight(self, step: int) -> float:
        """The weight of the upper objective at inner step ``step``, from 0; 0 without an aggregator."""
        aggregator = self._plan.aggregator
        if aggregator is None or aggregator.lower.weight is None:
            return 0.0
        return float(aggregator.lower.weight(self.of(aggregator), step))

    def next_start(self, start: Sequence[jt.Var], gradient: Sequence[jt.Var]) -> list[jt.Var]:
        """The learned y_0 after an outer step, given y_0 and dF(y_K)/dy_0; y_0 itself where it is not learned."""
        learner = self._plan.start_learner
        if learner is None or learner.lower.next_start is None:
            return list(start)
        return learner.lower.next_start(self.of(learner), start, gradient)

    @property
    def keeps(self) -> tuple[str, ...]:
        """The names of what the hypergradient operators remember from one outer step to the next."""
        kept = [op.upper.keeps(self.of(op)) for op in self._plan.operators if op.upper.keeps is not None]
        return tuple(dict.fromkeys(name for names in kept for name in names))

    @property
    def proximal(self) -> float:
        """Lam of implicit MAML; 0 where no step is pulled towards x."""
        initializer = self._plan.initializer
        if not self._plan.implicit or initializer is None or initializer.upper.proximal is None:
            return 0.0
        return float(initializer.upper.proximal(self.of(initializer)))

    @property
    def tracked_from(self) -> int:
        """How many of the first lower steps leave no graph."""
        truncator = self._plan.truncator
        if truncator is None or truncator.upper.tracked_from is None:
            return 0
        return int(truncator.upper.tracked_from(self.of(truncator)))

    @property
    def rebuilt_at_once(self) -> int:
        """How many steps a pullback rebuilds at once; 0 where it finds their graphs."""
        rebuilder = self._plan.rebuilder
        if rebuilder is None or rebuilder.upper.rebuilt_at_once is None:
            return 0
        return int(rebuilder.upper.rebuilt_at_once(self.of(rebuilder)))

    @property
    def checkpoints(self) -> int | str:
        """How many iterates of a lower loop are kept; 0 for all, ``"auto"`` for what the memory holds."""
        rebuilder = self._plan.rebuilder
        if rebuilder is None or rebuilder.upper.checkpoints is None:
            return 0
        return rebuilder.upper.checkpoints(self.of(rebuilder))

    @property
    def rebuilds(self) -> bool:
        """Whether lower steps are taken again."""
        return bool(self.rebuilt_at_once or self.checkpoints)


def _equal(before: Any, section: Any) -> bool:
    """Whether a section is as it was; not where it holds what cannot be compared, such as an array."""
    try:
        return bool(before == section)
    except Exception:
        return False


class StepOptions(ChainOptions):
    """The options that hold for a whole outer step: what changes in a section counts from the next :meth:`renew` on.

    Args:
        plan: whose options these are.
        solver_config: the sections.
    """

    def __init__(self, plan: ChainPlan, solver_config: Mapping[str, Any]) -> None:
        super().__init__(plan, solver_config)
        self._of_this_step: dict[str, Any] = {}

    def renew(self) -> None:
        """Take the sections as they are, for a step that begins."""
        self._of_this_step.clear()

    def of(self, operator: Operator) -> Any:
        """See :class:`ChainOptions`."""
        if operator.name not in self._of_this_step:
            self._of_this_step[operator.name] = super().of(operator)
        return self._of_this_step[operator.name]

    def under(self, plan: ChainPlan) -> StepOptions:
        """The same options for another plan of the same operators; they are renewed with these."""
        others = StepOptions(plan, self._solver_config)
        others._known, others._of_this_step = self._known, self._of_this_step
        return others


def _first(operators: Iterable[Operator], has: Callable[[Operator], bool]) -> Operator | None:
    return next((op for op in operators if has(op)), None)
