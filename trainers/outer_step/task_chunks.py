"""Hypergradients of several tasks computed together: their lower steps, and one reverse sweep for all.

The objectives of a chunk's tasks run once, on arrays with an axis of tasks (:mod:`jboat.stacked_objective`), and y has
that axis too. The sum of the tasks' objectives has, by each task's y, the derivatives of that task's own, so that the
chain of operators is the one that runs for a single task. What cannot run so is computed task by task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import logging
import math
from typing import Literal, TypeAlias

from jboat import functional
from jboat.backend.stacked.array import NotStackedError, UnequalTasksError
from jboat.backend.stacked.places import stacking
from jboat.optim import OptimizerState, UpdateRule
from jboat.outer_step import OuterStep, mean
from jboat.stacked_objective import StackedObjective, stacked_batch
from jboat.trainers.data.step_batches import Feed, Pair
from jboat.trainers.errors import DeviceMemoryError
from jboat.trainers.logged_values import LoggedValues
from jboat.trainers.outer_step import device_memory
from jboat.trainers.outer_step.chains import Chains
from jboat.trainers.outer_step.method import Events, OuterMethod, Start
from jboat.trainers.outer_step.problem import Problem
from jboat.trainers.outer_step.task_memory import MemoryOfTask, tasks_that_fit
from jboat.trial_calls import on_trial
import jittor as jt
from jittor import nn

logger = logging.getLogger("jboat")

Together: TypeAlias = 'int | Literal["auto"]'
_TRIED = 2  # tasks, which show whether one reaches into another
_STATISTICS = "running statistics, such as those of BatchNorm"
_LARGEST_DIFFERENCE = 1e-3  # relative; what one task adds to another's is of the size of the numbers themselves


def why_one_by_one(problem: Problem, rule: UpdateRule, precision: str) -> str:
    """What in a problem cannot be computed for several tasks at once, in words; empty where there is nothing."""
    if precision != "fp32":
        return f"precision={precision!r}"
    if problem.in_place_of_chains is not None:
        return problem.in_place_of_chains
    alone = [op.name for op in problem.plan.operators if not op.capabilities.stacks_tasks]
    if alone:
        return alone[0]
    if not rule.is_entrywise:
        return f"the lower optimizer {rule.optimizer_name}"
    if problem.ll_projection is not None:
        return "ll_projection"
    if problem.learned is not None:
        return "ll_hyperparameters"
    if problem.lower_micro_batches > 1:
        return "lower_micro_batches"
    if any(isinstance(m, nn.BatchNorm) and m.is_train for model in problem.models for m in model.modules()):
        return _STATISTICS
    return ""


class _Waiting:
    """The calls between the phases of a chunk, which wait until it is known that its result is used.

    Attributes:
        events: takes note of them in the place of those given.
    """

    def __init__(self, events: Events) -> None:
        self._called = events.call
        self._calls: list[tuple[str, bool]] = []
        self.events = Events(self._note, seconds=events.seconds)

    def _note(self, hook: str, *extra: object) -> None:
        self._calls.append((hook, bool(extra)))

    def call(self, result: OuterStep) -> None:
        """Make them now, with the average over tasks where they get a result."""
        for hook, has_result in self._calls:
            self._called(hook, *([result] if has_result else []))


class TaskChunks:
    """Takes the tasks of outer steps in chunks.

    Before the first chunk two of its tasks are computed together and one after the other. Where that differs, tasks
    are never computed together. What of the models is not trained is the same for all tasks, and nothing may change it.

    Args:
        problem: the two levels and their operators.
        method: how one task is computed.
        rule: the rule of the lower optimizer.
        most: how many tasks a chunk has at most; ``"auto"`` for as many as fit into half of the free memory.
        precision: in which models compute; in another than ``"fp32"`` they take one task at a time.

    Attributes:
        computed: how many chunks were computed together so far.
        refused: what kept tasks from being computed together.

    Raises:
        ValueError: if several are asked for, and something in the problem takes one at a time.
    """

    def __init__(
        self, problem: Problem, method: OuterMethod, rule: UpdateRule, most: Together, precision: str = "fp32"
    ) -> None:
        self._method = method
        self._most = most
        self._tried = False
        self._size = 1
        self.computed = 0
        self.refused: set[str] = set()
        self._off = why_one_by_one(problem, rule, precision) if most != 1 else ""
        if self._off and most != "auto":
            raise ValueError(
                f"tasks_together={most}: {self._off} cannot take several tasks at once, which chains of GDA, DI and "
                "NGD, and of RGT, RAD, FOA and IAD, can; leave it out, or give 'auto', which then takes one by one"
            )
        self._problem = problem
        self._stacked: Chains | None = None

    def step(
        self,
        pairs: Sequence[Pair],
        start: Callable[[int], Start],
        events: Events,
        alone: Callable[[int], OuterStep],
        logged: LoggedValues,
    ) -> OuterStep:
        """The average over tasks of what an outer step yields.

        Args:
            pairs: the batches of each task.
            start: where the lower loop of a task starts.
            events: called once a chunk, when it is computed.
            alone: the step of one task.
            logged: what objectives log, which of a chunk that is computed again task by task is forgotten.
        """
        if self._off:
            self._tell(self._off)
        one_by_one = len(pairs) == 1 or self._off or events.lower_losses or events.on_lower_step is not None
        if not one_by_one and not self._tried:
            self._try(pairs[:_TRIED], start)
            one_by_one = bool(self._off) or not self._tried
        if one_by_one:
            return mean([alone(task) for task in range(len(pairs))])
        found: list[OuterStep] = []
        counts: list[int] = []
        while (first := sum(counts)) < len(pairs):
            tasks = range(first, min(first + self._size, len(pairs)))
            waiting, before = _Waiting(events), logged.mark()
            try:
                step = self._chunk(pairs[first : tasks.stop], start(first), waiting.events) if len(tasks) > 1 else None
            except DeviceMemoryError as error:
                logged.back_to(before)
                self._size = len(tasks) // 2
                logger.warning(
                    "tasks_together: %d tasks from now on, as %d do not fit: %s", self._size, len(tasks), error
                )
                continue
            if step is not None and _is_finite(step):
                waiting.call(step)
                steps = [step]
            else:
                logged.back_to(before)
                steps = [alone(task) for task in tasks]
                if step is not None and all(map(_is_finite, steps)):
                    self._tell("objectives that do what cannot be followed: of several at once it is not finite")
            found += steps
            counts += [len(tasks) // len(steps)] * len(steps)
        return mean(found, counts)

    def _chunk(self, pairs: Sequence[Pair], start: Start, events: Events) -> OuterStep | None:
        """The average over tasks that are computed together; None where they cannot be."""
        try:
            with device_memory.named(self._method.name, start.step):
                found = self._unchanged(lambda: self._together(_stacked_pair(pairs), len(pairs), start, events))
        except (TypeError, AttributeError) as error:  # what is at fault by itself is so for one task as well
            self._tell(_in_words(error))
            return None
        if found is None:
            self._off = _STATISTICS
            self._tell(self._off)
            return None
        self.computed += 1
        return found

    def _try(self, pairs: Sequence[Pair], start: Callable[[int], Start]) -> None:
        """See whether tasks computed together give what they give one after another, and what memory one takes."""
        try:
            together = _stacked_pair(pairs)
        except UnequalTasksError as error:  # those of the next step may be equal
            self._tell(str(error))
            return
        try:
            self._tried = self._compare(pairs, together, start)
        except DeviceMemoryError as error:
            if self._most != "auto":
                raise
            self._tried, self._size = True, 1
            logger.warning("tasks_together='auto': one task at a time, as two do not fit: %s", error)
        if self._off:
            self._tell(self._off)

    def _compare(self, pairs: Sequence[Pair], together: Pair, start: Callable[[int], Start]) -> bool:
        """Whether there was something to compare with; how many tasks a chunk has, and what is off, is noted."""
        memory, events = None, Events()
        if self._most == "auto":
            memory = MemoryOfTask(self._problem.options.rebuilt_at_once)
            events = Events(memory.call, on_lower_step=memory.on_lower_step)
        with on_trial(), device_memory.named(self._method.name, start(0).step):
            wanted = self._unchanged(
                lambda: mean([self._method.step(p, start(task), events) for task, p in enumerate(pairs)])
            )
        if wanted is None:
            self._off = _STATISTICS
            return True
        self._size = int(self._most) if memory is None else tasks_that_fit(memory.size)
        comparable = wanted.failure is None
        if self._size == 1:
            return comparable
        try:
            with on_trial(), device_memory.named(self._method.name, start(0).step):
                found = self._unchanged(lambda: self._together(together, len(pairs), start(0), Events()))
        except DeviceMemoryError:
            raise
        except Exception as error:
            self._off = _in_words(error)
        else:
            if found is None:
                self._off = _STATISTICS
            elif comparable:
                self._off = _difference(found, wanted)
        return comparable

    def _unchanged(self, step: Callable[[], OuterStep]) -> OuterStep | None:
        """What a step yields; None where it changes what is not trained, which then is what it was."""
        statistics = self._problem.statistics()
        before = [v.id for v in statistics]
        with functional.preserved(statistics):
            found = step()
            return found if before == [v.id for v in self._problem.statistics()] else None

    def _tell(self, reason: str) -> None:
        if reason not in self.refused:
            self.refused.add(reason)
            logger.warning(
                "tasks_together=%r: tasks are computed one after another, as several at once cannot be: %s",
                self._most,
                reason,
            )

    def _together(self, pair: Pair, tasks: int, start: Start, events: Events) -> OuterStep:
        problem = self._chains.problem
        problem.begin_step()
        with stacking():
            found = self._chains.step(pair, self._stacked_start(start, tasks), events)

        def averaged(values: Sequence[jt.Var], *, stacked: bool) -> list[jt.Var]:
            return functional.cut([(v.sum(0) if stacked else v) / tasks for v in values])

        initial, state = found.ll_init_gradient, found.ll_state
        return dataclasses.replace(
            found,
            gradients=averaged(found.gradients, stacked=problem.plan.initializer is not None),
            upper_loss=found.upper_loss / tasks,
            lower_loss=found.lower_loss / tasks,
            ll_init_gradient=None if initial is None else averaged(initial, stacked=True),
            ll_parameters=_last(found.ll_parameters),
            ll_state=None if state is None else state.with_slots(_last(state.flat())),
        )

    @property
    def _chains(self) -> Chains:
        """The chains of the problem whose objectives are sums over tasks."""
        if self._stacked is None:
            own = self._problem
            self._stacked = Chains(
                dataclasses.replace(
                    own,
                    ll_objective=StackedObjective(own.ll_objective, own.ll_var),
                    ul_objective=StackedObjective(own.ul_objective, own.ll_var),
                    gda_loss=None if own.gda_loss is None else StackedObjective(own.gda_loss, own.ll_var),
                )
            )
        return self._stacked

    def _stacked_start(self, start: Start, tasks: int) -> Start:
        def for_all(values: Sequence[jt.Var]) -> list[jt.Var]:
            return [v.broadcast((tasks, *v.shape), [0]) for v in values]

        def ll_state() -> OptimizerState | None:
            state = start.ll_state()
            return None if state is None else state.with_slots(functional.cut(for_all(state.flat())))

        return dataclasses.replace(start, y=functional.cut(for_all(start.y)), ll_state=ll_state, reseed=None)


def _stacked_pair(pairs: Sequence[Pair]) -> Pair:
    """The batches of several tasks in one pair.

    Raises:
        UnequalTasksError: if they have other shapes than each other.
    """
    return _stacked_feed([lower for lower, _ in pairs]), _stacked_feed([upper for _, upper in pairs])


def _stacked_feed(feeds: Sequence[Feed]) -> Feed:
    if isinstance(feeds[0], list):
        return [stacked_batch([feed[step] for feed in feeds]) for step in range(len(feeds[0]))]  # type: ignore[index]
    return stacked_batch([feed for feed in feeds if not isinstance(feed, list)])


def _is_finite(found: OuterStep) -> bool:
    """By what is known without another look at the device."""
    return found.failure is None and math.isfinite(found.upper_loss) and math.isfinite(found.lower_loss)


def _in_words(error: Exception) -> str:
    return str(error) if isinstance(error, NotStackedError) else f"{type(error).__name__}: {error}"


def _last(values: Sequence[jt.Var]) -> list[jt.Var]:
    return functional.cut([v[v.shape[0] - 1] for v in values])


def _difference(found: OuterStep, wanted: OuterStep) -> str:
    """How what was computed together differs from what it should be, in words; empty where it does not."""
    off = functional.norm(functional.axpy(-1.0, wanted.gradients, found.gradients))
    pairs = [(off, 0.0, wanted.norm), *((a, b, abs(b)) for a, b in _losses(found, wanted))]
    if all(abs(a - b) <= _LARGEST_DIFFERENCE * max(size, 1e-12) for a, b, size in pairs):
        return ""
    return (
        "objectives that reach from one task into another, or do what cannot be followed: of two tasks the "
        f"hypergradient is off by {off:.3g} of {wanted.norm:.3g}"
    )


def _losses(found: OuterStep, wanted: OuterStep) -> list[tuple[float, float]]:
    return [(found.upper_loss, wanted.upper_loss), (found.lower_loss, wanted.lower_loss)]
