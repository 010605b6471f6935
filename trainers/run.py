"""What is behind a trainer: the problem, the method of its outer steps, and where these stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from jboat import functional
from jboat.backend import ranks
from jboat.backend.kernel_messages import Compiling, KernelMessages
from jboat.loss_scale import LossScale
from jboat.optim import OptimizerState, UpdateRule
from jboat.outer_step import OuterStep, mean
from jboat.precision import HalfPrecision, used
from jboat.projection_levels import watched
from jboat.projections import Projection, applied, name_of
from jboat.sl_ol.batches import Places
from jboat.trainers import seeding
from jboat.trainers.data.loaders import Batch
from jboat.trainers.data.sharding import TaskShare
from jboat.trainers.data.step_batches import Pair
from jboat.trainers.errors import NonFiniteError
from jboat.trainers.first_batch import SecondOrderCheck
from jboat.trainers.logged_values import LoggedValues
from jboat.trainers.outer_step import device_memory
from jboat.trainers.outer_step.choice import chosen
from jboat.trainers.outer_step.finiteness import failure_of, finite, kept_failure
from jboat.trainers.outer_step.full_start import FullStartWatch
from jboat.trainers.outer_step.method import Events, Start
from jboat.trainers.outer_step.problem import Problem
from jboat.trainers.outer_step.spread_tasks import mean_over_ranks
from jboat.trainers.outer_step.task_chunks import TaskChunks
from jboat.trainers.outer_step.upper_step import learning_rate, upper_step
from jboat.trainers.outer_step.zero_hypergradient import ZeroWatch
from jboat.trainers.persistence import checkpoint
from jboat.trainers.persistence.resumption import Resumption
from jboat.trial_calls import on_trial
import jittor as jt
import numpy as np

_logger = logging.getLogger("jboat")

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer


class Run:
    """A trainer's run.

    Callbacks may read ``pairs``, ``loaded_from`` and the name of the ``method``, and call :meth:`failure_of`,
    :meth:`value`, :meth:`unrolled_value`, :meth:`lower_gradient_norm`, :meth:`measured_values`,
    :meth:`folder_for`, :meth:`steps_per_epoch`, :meth:`evaluates_after` and :meth:`kernel_messages`. The rest is the
    trainer's own.

    Args:
        trainer: whose run it is.
        problem: the two levels and their operators.
        rule: the rule of the lower optimizer.
        half_precision: how models compute in half; None where they do not.

    Attributes:
        pairs: this rank's batches of the outer step under way, one (lower, upper) pair per hypergradient.
        share: which tasks of all these are, where each rank does some of them alone; else None.
        loaded_from: the checkpoint that was taken back last, or None.
        method: how an outer step is done; ``method.name`` is the operator that gives the direction of x.
        problem: the two levels and their operators.
        rule: the rule of the lower optimizer.
        chunks: takes the tasks of an outer step together.
        initialization: y_0 of DI and of a cold start; None until ``fit`` has started.
        auxiliary: what the method keeps from step to step, by name.
        measured: where a callback wants it, the variables of both levels, each with the value at which the step's own
            metrics, such as ``ul_loss``, were measured.
        random_seed: what random numbers derive from; the trainer's ``seed``, or one drawn when the first step needs it.
        resumption: what the next ``fit`` takes up from a checkpoint.
        zero_watch: whether a hypergradient of zero was told of.
        full_start: whether a start from all batches that fails was told of.
        second_order: whether second derivatives were looked at.
        logged: what ``trainer.log`` was given.
        scratch_folder: where callbacks write while ``fit(fast_dev_run=...)`` runs.
        half_precision: how models compute in half; None where they do not.
    """

    def __init__(
        self, trainer: BilevelTrainer, problem: Problem, rule: UpdateRule, half_precision: HalfPrecision | None = None
    ) -> None:
        self._trainer = trainer
        self.problem = problem
        self.method = chosen(problem)
        self.rule = rule
        self.chunks = TaskChunks(problem, self.method, rule, trainer.tasks_together, trainer.precision)
        self.pairs: list[Pair] = []
        self.share: TaskShare | None = None
        self.loaded_from: Path | None = None
        self.initialization: list[jt.Var] | None = None
        self.auxiliary: dict[str, list[jt.Var]] = {}
        self.measured: list[tuple[jt.Var, jt.Var]] | None = None
        self.random_seed: int | None = None
        self.resumption = Resumption()
        self.zero_watch = ZeroWatch()
        self.full_start = FullStartWatch()
        self.second_order = SecondOrderCheck()
        self.logged = LoggedValues(trainer.state)
        self.scratch_folder: Path | None = None
        self.half_precision = half_precision

    @property
    def loss_scale(self) -> LossScale | None:
        """What losses are multiplied by where models compute in float16."""
        return None if self.half_precision is None else self.half_precision.loss_scale

    def failure_of(self, found: OuterStep) -> ArithmeticError | None:
        """What of the outer step under way is NaN or infinite; None also of one that is left out already."""
        return None if found.skip else failure_of(found, self.method.name, self._trainer.state.step + 1)

    def has_overflowed(self, found: OuterStep) -> bool:
        """Whether something of a step is not finite that may be with a smaller loss scale, which then is halved.

        That includes what a method keeps, as a single-loop one v, which its direction shows a step later.
        """
        scale = self.loss_scale
        if scale is None or not scale.may_be_halved:
            return False
        failure = self.failure_of(found)
        if failure is None and not found.skip:
            failure = kept_failure(found, self.method.name, self._trainer.state.step + 1)
        if failure is None:
            return False
        before = scale.value
        scale.halve()
        _logger.info("%s: loss_scale is %g now, after %g", failure, scale.value, before)
        return True

    def unrolled_value(self, x: Sequence[np.ndarray]) -> float:
        """F(x, y_K(x)) on the batches of the outer step under way, averaged over its pairs; nothing changes.

        It is computed in float32, whatever the precision of models is, and so are the next two.

        Args:
            x: one array per entry of ``ul_var``.

        Raises:
            ValueError: if there is no lower loop: with DM or a first-order method.
        """
        starts = [self.start(task, self.share) for task in range(len(self.pairs))]
        with on_trial(), used(None):
            value = self.method.unrolled_value(self.pairs, starts, [checkpoint.as_var(array) for array in x])
        return self._over_tasks(value)

    def value(self, x: Sequence[np.ndarray], found: OuterStep) -> float:
        """What the direction of the outer step under way is held to be the derivative of, at x; nothing changes.

        With a lower loop that is :meth:`unrolled_value`. Without one it is the method's own value, as DM's
        ``F - <grad_y psi, v>``, in which x alone varies: y, the multiplier and all else are as they were in the step.

        Args:
            x: one array per entry of ``ul_var``.
            found: the outer step under way.

        Raises:
            ValueError: if a method without a lower loop does not tell its value.
        """
        if self.method.has_lower_loop:
            return self.unrolled_value(x)
        if found.value is None:
            raise ValueError(
                f"{self.method.name} has no lower loop, and does not tell what its direction of x descends"
            )
        start = self.start(0)
        if start.reseed:
            start.reseed(0)
        point = [checkpoint.as_var(array) for array in x]
        problem = self.problem
        held = functional.preserved(problem.statistics()), functional.substituted(problem.ul_var, point)
        with held[0], held[1], on_trial(), used(None):
            return self._over_tasks(float(found.value().item()))

    def lower_gradient_norm(self, y: Sequence[jt.Var]) -> float:
        """The Euclidean norm of the lower problem's gradient at y, for the last batches drawn; nothing changes.

        The lower problem is f with the lower optimizer's coupled weight decay and, in implicit MAML, the proximal term,
        but without GDA's share of F: it vanishes where y is the lower solution.

        Args:
            y: one Var per entry of ``ll_var``, such as ``result.ll_parameters``.
        """
        task = len(self.pairs) - 1
        with on_trial(), used(None):
            norm = self.method.lower_gradient_norm(self.pairs[task], self.start(task, self.share), y)
        return norm if self.share is None else ranks.gathered([norm])[self.share.last_rank][0]

    def measured_values(self) -> dict[str, np.ndarray]:
        """The trainer's ``values()``, with both levels' variables as when the step's own metrics were measured.

        They differ from the present ones by the last upper step and, in methods that move y from where they measure F,
        by the last lower one. Without a callback that wants them there is no difference.
        """
        values = {id(variable): value for variable, value in self.measured or []}
        named = checkpoint.variables(self._trainer).items()
        return {name: values.get(id(v), v).numpy().copy() for name, v in named}

    def steps_per_epoch(self) -> float | None:
        """Outer steps in a pass over the lower loader, on the average; None where its length is not known."""
        loop = self.resumption.loop
        streams = None if loop is None else loop.streams
        if streams is None or streams.ll.length is None:
            return None
        trainer, method = self._trainer, self.method
        draws = trainer.accumulate * (trainer.lower_iters if trainer.lower_batches == "fresh" else 1)
        if method.takes_lists:
            draws = method.batches(trainer.state.step + 1, streams.lengths, self.auxiliary).lower
        return max(1.0, streams.ll.length / draws)

    @contextmanager
    def adapted(self, support: Batch, task: int) -> Iterator[None]:
        """Let the lower model have taken its steps on a task's support batch, from where a lower loop would start now.

        Args:
            support: the batch; with ``lower_batches="fresh"`` every step takes it.
            task: the task's number, from which its random numbers derive.
        """
        problem = self.problem
        problem.begin_step()
        with on_trial():
            y = self.method.adapted(support, self.start(task))
        with functional.substituted(problem.ll_var, y):
            yield

    def folder_for(self, folder: Path) -> Path:
        """Where a callback writes that was told to write into ``folder``: there, or aside in a trial run."""
        if self.scratch_folder is None:
            return folder
        return self.scratch_folder.joinpath(*folder.absolute().parts[1:])

    def evaluates_after(self, step: int) -> bool:
        """Whether the running ``fit`` evaluates after this outer step."""
        loop = self.resumption.loop
        return loop is not None and loop.evaluates_after(step)

    def kernel_messages(self, hear: Callable[[Compiling], None]) -> KernelMessages:
        """Let ``hear`` be told of kernels that are compiled, instead of the terminal, until the result's ``end()``.

        Args:
            hear: gets how many of how many are compiled, and seconds; must not use Jittor.
        """
        return KernelMessages(hear)

    def draw_random_seed(self) -> int:
        """What this run's random numbers derive from: the trainer's ``seed``, or a number drawn once, by rank 0."""
        if self.random_seed is None:
            seed = self._trainer.seed
            self.random_seed = int(ranks.gathered([seeding.drawn_seed()])[0][0]) if seed is None else seed
        return self.random_seed

    def forget_starts(self) -> None:
        """Let the next ``fit`` take y_0, and what the method keeps, from the models, which have changed."""
        self.initialization, self.auxiliary, self.measured = None, {}, None

    def next_initial(self) -> list[jt.Var]:
        """y_0 of the next lower loop."""
        problem, learned = self.problem, self.initialization
        if problem.plan.initializer is not None:
            return problem.ul_var
        if learned is not None and (problem.plan.start_learner is not None or not self._trainer.warm_start):
            return learned
        return problem.ll_var

    def start(self, task: int, share: TaskShare | None = None, places: Places | None = None) -> Start:
        """Where the present outer step starts.

        Args:
            task: for which of this rank's pairs, from 0.
            share: which of all tasks this rank's pairs are; None where all ranks do the same ones.
            places: which batches of the loaders it takes; None where they come from no loader.
        """
        trainer = self._trainer
        # random numbers are those of a task, or else of a rank's samples
        stream = task + (share.first if share is not None else ranks.rank() << 32)
        seeds: Callable[[int], int] | None = None

        def reseed(inner_step: int) -> None:
            nonlocal seeds
            if seeds is None:  # only now, since not every start is asked for them
                seeds = seeding.derived_seeds(self.draw_random_seed(), trainer.state.step, stream)
            jt.set_seed(seeds(inner_step))

        return Start(
            step=trainer.state.step + 1,
            y=self.next_initial(),
            ll_state=self._carried,
            # a step that is taken again must draw the same numbers, whatever the user asked for
            reseed=reseed if trainer.deterministic or self.problem.options.rebuilds else None,
            auxiliary=self.auxiliary,
            places=places,
        )

    def check_first_batch(self, pair: Pair, *, second_order: bool = True) -> None:
        """Look at the objectives before the first step, in float32; see :func:`first_batch.check_first_batch`."""
        self.problem.begin_step()
        with on_trial(), used(None):
            self.second_order.check(self.method, pair, self.start(0), second_order=second_order)

    def step(
        self,
        pairs: Sequence[Pair],
        events: Events,
        share: TaskShare | None = None,
        places: Places | None = None,
    ) -> OuterStep:
        """What one outer step yields: the average over its pairs of batches.

        Args:
            pairs: this rank's pairs.
            events: called between the phases.
            share: which tasks of all these are; None where all ranks do the same ones, each on its part of the batches.
            places: which batches of the loaders these are; None where they come from no loader.
        """
        self.problem.begin_step()

        def alone(task: int) -> OuterStep:
            start = self.start(task, share, places)
            if start.reseed and not self.method.has_lower_loop:  # whose lower steps reseed
                start.reseed(0)
            with device_memory.named(self.method.name, start.step), watched("ll_projection", start.step):
                return self.method.step(pairs[task], start, events)

        if self._trainer.tasks_together == 1 or (share is None and ranks.size() > 1):  # ranks share each task's batches
            own = mean([alone(task) for task in range(len(pairs))])
        else:
            own = self.chunks.step(pairs, lambda task: self.start(task, share, places), events, alone, self.logged)
        return own if share is None else mean_over_ranks(own, share, self.problem.statistics())

    def look_for_zero(self, found: OuterStep) -> None:
        """Warn where a hypergradient of zero says so for the first time."""
        self.zero_watch.look_at(found, self.method, step=self._trainer.state.step + 1, auxiliary=self.auxiliary)

    def look_for_full_start(self, pairs: Sequence[Pair], places: Places | None) -> None:
        """Warn where a step that was left out is one of those that the method takes again on the same batches."""
        self.full_start.look_at(self.method, pairs[0], places, self.auxiliary, step=self._trainer.state.step + 1)

    def move(self, found: OuterStep) -> None:
        """Move both levels, and take what the method keeps."""
        problem = self.problem
        for variable, value in zip(problem.ll_var, found.ll_parameters, strict=True):
            variable.update(value.detach())
        if self._trainer.ll_optimizer_state == "carry" and found.ll_state is not None:
            self.rule.store(found.ll_state)
        if found.ll_init_gradient is not None and self.initialization is not None:
            next_start = problem.options.next_start
            self.initialization = functional.cut(next_start(self.initialization, found.ll_init_gradient))
        self.auxiliary = found.auxiliary
        with learning_rate(problem.ul_optimizer, found.ul_learning_rate):
            upper_step(problem.ul_optimizer, problem.ul_var, found.gradients)
        if problem.ul_projection is not None:
            self._project_x(problem.ul_projection)

    def _project_x(self, projection: Projection) -> None:
        """Project x, which has just moved.

        Raises:
            NonFiniteError: if the projection makes something of it that is not finite.
        """
        variables, step = self.problem.ul_var, self._trainer.state.step + 1
        with watched("ul_projection", step):
            values = functional.cut(applied(projection, functional.detached(variables), "ul_projection"))
        if not finite(values) and finite(variables):
            what = f"ul_projection ({name_of(projection)}) returned what is not finite"
            raise NonFiniteError(what, operator=self.method.name, step=step)
        for variable, value in zip(variables, values, strict=True):
            variable.update(value)

    def measured_at(self, found: OuterStep) -> list[tuple[jt.Var, jt.Var]]:
        """The variables of both levels with the values at which the step's own metrics were measured."""
        problem = self.problem
        y = found.upper_loss_at or found.ll_parameters
        pairs = [*zip(problem.ll_var, y, strict=True), *zip(problem.ul_var, problem.ul_var, strict=True)]
        return [(variable, value.detach()) for variable, value in pairs]

    def _over_tasks(self, value: float) -> float:
        """The mean over all ranks' tasks of what is known of this one's."""
        share = self.share
        return value if share is None else ranks.mean_of([value], share.counts[ranks.rank()])[0]

    def _carried(self) -> OptimizerState | None:
        """The lower optimizer's state that the last step left, where it goes on with it."""
        return self.rule.load() if self._trainer.ll_optimizer_state == "carry" else None
