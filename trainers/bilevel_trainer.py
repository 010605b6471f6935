"""The trainer: both levels, their operators and the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
import copy
from pathlib import Path
from typing import Any, Literal

from jboat.backend import ranks
from jboat.backend.rank_failures import failing_together
from jboat.callbacks.callback import Callback
import jboat.fo_ol
import jboat.gm_ol
from jboat.learned_hyperparameters import HyperparameterFunction, LearnedHyperparameters
from jboat.levels import Objective
import jboat.na_ol
from jboat.optim import UpdateRule
from jboat.projections import Projection
import jboat.sl_ol  # noqa: F401
from jboat.spelled_keywords import spelled_keywords
from jboat.trainers import arguments, chain_arguments, half_precision
from jboat.trainers import device as devices
from jboat.trainers.callback_list import CallbackList, list_of_callbacks, with_default_loggers
from jboat.trainers.configuration import build, description
from jboat.trainers.data.loaders import batch_size
from jboat.trainers.dev_run import dev_run
from jboat.trainers.evaluation import UnknownSize, means_over, numbers_of
from jboat.trainers.fit_call import FitCall
from jboat.trainers.history import History
from jboat.trainers.history_recorder import HistoryRecorder
from jboat.trainers.level_check import LevelCheck
from jboat.trainers.lone_hypergradient import hypergradient_of
from jboat.trainers.outer_step.problem import Problem
from jboat.trainers.outer_step.result import HyperGradientResult
from jboat.trainers.persistence import checkpoint, weights
from jboat.trainers.persistence.models_of_checkpoint import load_models
from jboat.trainers.run import Run
from jboat.trainers.summary import Summary, short, summary_of
from jboat.trainers.trainer_state import TrainerState
import jittor as jt
import numpy as np

Metric = Callable[..., Any]


class BilevelTrainer:
    """Solve ``min_x F(x, y_K(x))``, y_K being where K lower steps on f lead.

    Give the objectives as functions, or subclass and override :meth:`ll_objective` and :meth:`ul_objective`.

    Args:
        ll_model: the lower-level model; holds y_K after every outer step.
        ul_model: the upper-level model.
        ll_objective: f, called ``f(ll_batch, ul_model, ll_model)``; returns a scalar Var.
        ul_objective: F, called ``F(ul_batch, ul_model, ll_model)``; returns a scalar Var.
        ll_optimizer: a Jittor optimizer over the lower-level variables, of a class that ``jboat.optim`` has a rule for.
        ul_optimizer: any Jittor optimizer over the upper-level variables; it takes the upper steps itself.
        gm_op: lower-level operators, in any order.
        na_op: hypergradient operators, in any order.
        fo_op: a first-order method instead of both chains; the lower optimizer's state then carries over.
        sl_op: a stochastic single-loop method instead of both chains, likewise; ``lower_iters`` counts in STOCBIO and
            AMIGO alone, whose lower steps always have fresh batches.
        lower_iters: K, the number of lower steps in an outer step.
        solver_config: options of the operators, one section each, such as ``{"CG": {"k": 20}}``.
        gda_loss: GDA's aggregated objective, called ``g(ll_batch, ul_batch, ul_model, ll_model)`` with the weight in
            ``ll_batch["alpha"]``; by default ``alpha F + (1 - alpha) f``.
        ll_projection: what every step of the lower level ends with, such as one of :mod:`jboat.projections`: a callable
            that takes the lower-level variables as a list of Vars and returns them projected. A lower loop is
            differentiated through it.
        ul_projection: the same of the upper level, after each step of ``ul_optimizer``.
        ll_hyperparameters: those of the lower optimizer's numbers that the upper level learns, each a function of the
            upper model: ``{"lr": lambda m: m.log_lr.exp()}``, also ``"momentum"``, ``"weight_decay"`` and ``"betas"``.
            It returns a Var of one number, or one per lower-level variable; see
            :class:`jboat.learned_hyperparameters.LearnedHyperparameters`.
        ll_var: lower-level variables; by default those of ``ll_model`` that ``ll_optimizer`` holds.
        ul_var: upper-level variables; by default those of ``ul_model`` that ``ul_optimizer`` holds.
        warm_start: whether a lower loop starts where the last one ended, or from the initial y_0. DI and IAD have
            starts of their own.
        lower_batches: ``"shared"``: the K lower steps of an outer step share a batch; ``"fresh"``: each has its own.
        ll_optimizer_state: ``"reset"``: every lower loop starts a fresh optimizer; ``"carry"``: it goes on with the
            state that the last one left, which is kept in ``ll_optimizer``.
        lower_micro_batches: in how many parts of a lower batch f and its derivatives are computed, one after another
            and weighted by samples, for batches that do not fit into memory; see docs/performance.md.
        accumulate: how many hypergradients an upper step averages.
        tasks_together: how many of a step's tasks to compute at once, or ``"auto"`` for as many as fit into memory.
        metrics: numbers that :meth:`evaluate` adds, each called ``metric(batch, ul_model, ll_model)``.
        callbacks: see :mod:`jboat.callbacks`.
        logger_dir: the folder of loggers without one; with no logger in ``callbacks``, of CSV and TensorBoard logs.
        seed: seeds Python, numpy and Jittor when ``fit`` first starts; None leaves them alone.
        device: ``"auto"`` (CUDA where Jittor has it), ``"cpu"`` or ``"cuda"``.
        deterministic: seed Jittor's generator before every lower step, so that a step's random numbers depend on
            ``seed`` and the step alone.
        precision: ``"fp32"``; or, on a GPU, ``"bf16"`` or ``"fp16"``: products and convolutions in objectives and
            metrics are computed in half, and everything else in float32. See docs/half-precision.md.
        loss_scale: with ``"fp16"``, what losses are multiplied by before their gradients are taken, which are divided
            by it again: a fixed number; None for one that is halved where a step overflows, which is left out then,
            and doubled after 200 steps that do not.

    Raises:
        TypeError: for an argument of a wrong kind.
        ValueError: for an argument out of range, an invalid chain, or optimizers that do not fit the models.

    Attributes:
        state: where the run stands.
        history: one row an outer step.
        solver_config: the options, which schedules may change while training.
        current_run: what is behind the trainer; callbacks may ask it for what its first lines name.
    """

    @spelled_keywords
    def __init__(
        self,
        ll_model: jt.Module,
        ul_model: jt.Module,
        ll_objective: Objective | None = None,
        ul_objective: Objective | None = None,
        *,
        ll_optimizer: jt.optim.Optimizer | None = None,
        ul_optimizer: jt.optim.Optimizer | None = None,
        gm_op: Sequence[str] = ("NGD",),
        na_op: Sequence[str] = ("RAD",),
        fo_op: str | None = None,
        sl_op: str | None = None,
        lower_iters: int = 10,
        solver_config: Mapping[str, Mapping[str, Any]] | None = None,
        gda_loss: Objective | None = None,
        ll_projection: Projection | None = None,
        ul_projection: Projection | None = None,
        ll_hyperparameters: Mapping[str, HyperparameterFunction] | None = None,
        ll_var: Sequence[jt.Var] | None = None,
        ul_var: Sequence[jt.Var] | None = None,
        warm_start: bool = True,
        lower_batches: Literal["shared", "fresh"] = "shared",
        ll_optimizer_state: Literal["reset", "carry"] = "reset",
        lower_micro_batches: int = 1,
        accumulate: int = 1,
        tasks_together: int | Literal["auto"] = 1,
        metrics: Mapping[str, Metric] | None = None,
        callbacks: Iterable[Callback] = (),
        logger_dir: str | Path | None = None,
        seed: int | None = None,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        deterministic: bool = True,
        precision: Literal["fp32", "bf16", "fp16"] = "fp32",
        loss_scale: float | None = None,
    ) -> None:
        arguments.module("ll_model", ll_model)
        arguments.module("ul_model", ul_model)
        arguments.counts(lower_iters=lower_iters, lower_micro_batches=lower_micro_batches, accumulate=accumulate)
        arguments.choice("lower_batches", lower_batches, ("shared", "fresh"))
        arguments.choice("ll_optimizer_state", ll_optimizer_state, ("reset", "carry"))
        methods = chain_arguments.checked(
            *(gm_op, na_op, fo_op, sl_op, solver_config),
            lower_iters=lower_iters,
            accumulate=accumulate,
            warm_start=warm_start,
            lower_batches=lower_batches,
        )
        plan, sections = methods.plan, methods.sections
        chain_arguments.projections(ll_projection, ul_projection, plan, sections, fo_op, sl_op)
        self.ll_model, self.ul_model = ll_model, ul_model
        if ll_optimizer is None and ul_optimizer is None:
            ll_optimizer, ul_optimizer = self.configure_optimizers()
        self.ll_optimizer = arguments.optimizer("ll_optimizer", ll_optimizer)
        self.ul_optimizer = arguments.optimizer("ul_optimizer", ul_optimizer)
        self.ll_var = arguments.variables("ll", ll_var, ll_model, self.ll_optimizer)
        self.ul_var = arguments.variables("ul", ul_var, ul_model, self.ul_optimizer)
        both = (ll_model, ul_model), (self.ll_var, self.ul_var), (self.ll_optimizer, self.ul_optimizer)
        self._levels = LevelCheck(*both)
        self._levels.check()
        if plan.initializer is not None:
            arguments.same_structure(plan.initializer.name, self.ll_var, self.ul_var)
        rule = UpdateRule(self.ll_optimizer, self.ll_var)
        learned = None
        if ll_hyperparameters is not None:
            chain_arguments.learned_are_seen(plan, sections, methods.single)
            learned = LearnedHyperparameters(ll_hyperparameters, ul_model, rule)
        self.solver_config = {name: dict(section) for name, section in sections.items()}
        self.lower_iters, self.accumulate = int(lower_iters), int(accumulate)
        arguments.flags(warm_start=warm_start, deterministic=deterministic)
        self.warm_start, self.deterministic = bool(warm_start), bool(deterministic)
        self.lower_batches = lower_batches
        self.ll_optimizer_state = ll_optimizer_state if methods.single is None else "carry"
        self.tasks_together = arguments.tasks_together(tasks_together)
        arguments.functions({"ll_objective": ll_objective, "ul_objective": ul_objective, "gda_loss": gda_loss}, metrics)
        self.metrics = dict(metrics or {})
        arguments.metric_names(self.metrics)
        self.logger_dir = None if logger_dir is None else Path(logger_dir)
        self.seed = arguments.seed(seed)
        self.device = devices.checked(device)
        self.precision, self.loss_scale = precision, loss_scale
        listed = {"ll_var": self.ll_var, "ul_var": self.ul_var}
        listed |= {"ll_model": ll_model.parameters(), "ul_model": ul_model.parameters()}
        half = half_precision.checked(precision, loss_scale, self.device, listed)
        problem = Problem(
            ll_model=ll_model,
            ul_model=ul_model,
            ll_objective=self._overridden("ll_objective") if ll_objective is None else ll_objective,
            ul_objective=self._overridden("ul_objective") if ul_objective is None else ul_objective,
            ll_var=self.ll_var,
            ul_var=self.ul_var,
            ll_optimizer=self.ll_optimizer,
            ul_optimizer=self.ul_optimizer,
            gm_op=methods.gm_op,
            na_op=methods.na_op,
            lower_iters=lower_iters,
            lower_micro_batches=int(lower_micro_batches),
            sections=self.solver_config,
            gda_loss=getattr(self, "gda_loss", None) if gda_loss is None else gda_loss,
            ll_projection=ll_projection,
            ul_projection=ul_projection,
            learned=learned,
            fo_op=fo_op,
            sl_op=sl_op,
        )
        own = list_of_callbacks(callbacks)
        given = [HistoryRecorder(), *with_default_loggers(own, self.logger_dir)]
        self.callbacks = CallbackList(given, self.logger_dir, own)
        self.state = TrainerState()
        self.history = History()
        self.current_run = Run(self, problem, rule, half)
        self._fitting = False
        self._unknown_size = UnknownSize()
        self._configuration = description.described(self)

    @classmethod
    def from_config(cls, source: build.Source | Sequence[build.Source], **objects: Any) -> BilevelTrainer:
        """Build a trainer from a configuration.

        Args:
            source: a ``.json`` or ``.toml`` file, or a dict. Of BOAT also a folder with ``boat_config.json`` and
                ``loss_config.json``, or with one ``boat_config_NAME.json`` and its ``loss_config_NAME.json``, and a
                pair of such files or dicts; see docs/configuration.md.
            objects: constructor arguments, such as models, that take precedence.

        Raises:
            ConfigurationError: with everything that is wrong.
        """
        return build.from_source(source, objects, cls)

    @property
    def gm_op(self) -> tuple[str, ...]:
        """The lower-level chain in the order it runs."""
        return self.current_run.problem.gm_op

    @property
    def na_op(self) -> tuple[str, ...]:
        """The hypergradient chain in the order it runs."""
        return self.current_run.problem.na_op

    @property
    def fo_op(self) -> str | None:
        """The first-order method that replaces both chains, or None."""
        return self.current_run.problem.fo_op

    @property
    def sl_op(self) -> str | None:
        """The single-loop method that replaces both chains, or None."""
        return self.current_run.problem.sl_op

    @property
    def initialization(self) -> list[jt.Var] | None:
        """y_0 of DI and of a cold start, one Var per entry of ``ll_var``; None until ``fit`` has started."""
        return self.current_run.initialization

    @property
    def auxiliary(self) -> dict[str, list[jt.Var]]:
        """What a method keeps from step to step, by name, such as DM's ``"multiplier"``."""
        return self.current_run.auxiliary

    def ll_objective(self, batch: dict[str, Any], ul_model: jt.Module, ll_model: jt.Module) -> jt.Var:
        """f; override it in a subclass or give the argument ``ll_objective``."""
        raise TypeError(f"{type(self).__name__} has no ll_objective")

    def ul_objective(self, batch: dict[str, Any], ul_model: jt.Module, ll_model: jt.Module) -> jt.Var:
        """F; override it in a subclass or give the argument ``ul_objective``."""
        raise TypeError(f"{type(self).__name__} has no ul_objective")

    def configure_optimizers(self) -> tuple[jt.optim.Optimizer | None, jt.optim.Optimizer | None]:
        """The lower and the upper optimizer, for a subclass that is given none."""
        return None, None

    def evaluation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The numbers of one evaluation batch: the upper loss as ``ul_loss``, and ``metrics``."""
        return numbers_of(self, batch)

    def evaluation_batch_size(self, batch: dict[str, Any]) -> int | None:
        """The weight of an evaluation batch in the means: how many samples it holds, or None where it is not known.

        By default the batch's entry ``batch_size`` or, without one, the first dimension that its arrays agree on,
        arrays of shape ``[1]`` left aside. Where the size of one batch is not known, all batches count the same.
        """
        return batch_size(batch)

    @failing_together
    def evaluate(self, loader: Any) -> dict[str, float]:
        """Means of :meth:`evaluation_step` over a loader, weighted by batch size, at the present parameters.

        With several ranks each is given its part of every batch, and the means are over the parts of all. No graph is
        built, dropout is off, and nothing of the training state changes. Lists of tasks, each a (support, query) pair
        of batches, may take the place of batches: the lower loop runs on each support batch from where it would start
        now, and what is measured on the query batches is averaged, ``..._ci95`` being half its 95 percent interval.

        Raises:
            TypeError: if the loader is of a wrong kind, ``evaluation_step`` returns no dict, or a metric is no number.
            ValueError: if the loader is empty, or a batch's entry ``batch_size`` is out of range.
        """
        return means_over(self, loader, self._unknown_size)

    def __repr__(self) -> str:
        return short(self) if hasattr(self, "current_run") else object.__repr__(self)

    def summary(self) -> Summary:
        """Both models' sizes, the chain as it runs, options in force and what an outer step costs, to be printed."""
        return summary_of(self)

    def log(self, name: str, value: Any) -> None:
        """Add a number of one's own to the metrics, the loggers and the history.

        From an objective or a hook it is averaged over the calls that the outer step is made of, those that rebuild,
        check or differentiate once more left out: f once for each lower step, F where the hypergradient starts from it.
        Within an evaluation it is averaged over the batches, as ``val_...``. See docs/callbacks.md.

        Args:
            name: the metric's name.
            value: a number, or a Var or array with one element.

        Raises:
            TypeError: if the value is anything else, naming the metric.
            ValueError: for a name that jboat or a callback gives itself.
        """
        self.current_run.logged.add(name, value)

    @failing_together
    def hypergradient(self, ll_batch: Any, ul_batch: Any, *, check_second_order: bool = True) -> HyperGradientResult:
        """The hypergradient at the present parameters; models, optimizers and batches stay as they are.

        Args:
            ll_batch: a lower batch; a list of K of them where ``lower_batches`` is ``"fresh"``. Lists of tasks at both
                levels give the average of the tasks' hypergradients. With ``sl_op`` a list is that of the batches of
                one step.
            ul_batch: an upper batch, or with ``sl_op`` likewise a list.
            check_second_order: whether to look at second derivatives on these batches, as :meth:`fit` does. This is
                done once for the same objectives, by whichever of the two comes first.

        Raises:
            TypeError: for a batch of a wrong kind.
            ValueError: for another number of lower batches than K, or of tasks, or a variable that is stop_grad.
            NonFiniteError: if a lower loss is NaN or infinite.
            SecondOrderError: if the lower objective has a wrong second derivative that the operators need.
        """
        self._levels.check()
        return hypergradient_of(self, ll_batch, ul_batch, check_second_order=check_second_order)

    @spelled_keywords
    @failing_together
    def fit(
        self,
        ll_loader: Any,
        ul_loader: Any,
        *,
        max_epochs: int | None = None,
        max_steps: int | None = None,
        max_time: float | None = None,
        val_loader: Any = None,
        val_every: int | None = None,
        resume_from: str | Path | None = None,
        check_second_order: bool = True,
        limit_batches: int | None = None,
        fast_dev_run: bool | int = False,
        progress: bool | None = None,
    ) -> History:
        """Train; ``fit`` may be called again to go on.

        Args:
            ll_loader: lower batches; an epoch is a pass over them.
            ul_loader: upper batches; the shorter of the two cycles.
            max_epochs: epochs to train, at least 1; one epoch when no limit is given.
            max_steps: outer steps to train, at least 1.
            max_time: seconds after which to stop, at the end of the step under way.
            val_loader: batches for :meth:`evaluate`; its numbers appear in the metrics as ``val_...``.
            val_every: evaluate every so many outer steps; by default at the end of every epoch.
            resume_from: a checkpoint to go on from: a path, or ``"last"`` or ``"best"`` of the ModelCheckpoint among
                the callbacks. The limits then count from where the saved run began. With ``"last"`` and no checkpoint
                yet, the run starts afresh.
            check_second_order: whether to compare, before the first step and where the operators need second
                derivatives, a Hessian-vector product of the lower objective with a central difference of its gradient
                on the first batch. This calls the objective up to ten times, once for the same objectives; see
                :mod:`jboat.second_order`. What cannot be decided is a warning where operations with a hand-written
                gradient were used.
            limit_batches: how many batches a pass over each of the loaders has at most; None for all.
            fast_dev_run: True or N to try everything in 1 or N outer steps: an evaluation of N batches, a checkpoint,
                the end of an epoch, every callback, with files in a temporary folder. A warning says what ran; limits
                and ``resume_from`` are not looked at, and the trainer is as it was afterwards.
            progress: whether to show a ProgressBar though none is among the callbacks, in plain lines where there is no
                terminal; None for terminals and notebooks alone, unless a logger is among them.

        Returns:
            The history: one row an outer step of this trainer; with ``fast_dev_run`` the rows of these steps alone.

        Raises:
            TypeError: for a loader or a batch of a wrong kind.
            ValueError: for an empty loader, a limit out of range, a monitored metric that cannot come, or a variable
                that is stop_grad.
            RuntimeError: if a ``fit`` of this trainer is under way.
            NonFiniteError: if a loss or a gradient is NaN or infinite.
            SecondOrderError: if the lower objective has a wrong second derivative that the operators need.
            CheckpointError: if the checkpoint cannot be used.
            KeyboardInterrupt: at the end of the step under way after a Ctrl-C, checkpoint saved and callbacks closed.
            SystemExit: the same after a SIGTERM; a handler of the user's is called instead. See docs/checkpoints.md.
        """
        if self._fitting:
            raise RuntimeError("fit() was called while a fit() of the same trainer is under way; let that end first")
        loaders, limits = (ll_loader, ul_loader, val_loader), (max_epochs, max_steps, max_time, val_every)
        call = FitCall(loaders, *limits, resume_from, check_second_order, limit_batches, progress)
        call.check(self)
        dev_steps = arguments.dev_steps(fast_dev_run)
        self._levels.check()
        self._fitting = True
        try:
            if dev_steps > 0:
                return dev_run(self, call, dev_steps)
            call.run(self)
        finally:
            self._fitting = False
            self.current_run.resumption.under_way = False
        return self.history

    def save_checkpoint(self, path: str | Path, *, measured: bool = False) -> None:
        """Write everything that a run needs to go on exactly as if it had not stopped; of several ranks rank 0 writes.

        Args:
            path: the file.
            measured: let :meth:`load_checkpoint` give back the variables at which the step's own metrics were measured
                instead of the present ones, where a callback has asked for them.

        Raises:
            OSError: if the file cannot be written; one that was there before is left as it was.
        """
        if ranks.rank() == 0:
            checkpoint.save(self, path, measured=measured)

    @failing_together
    def load_checkpoint(self, path: str | Path, what: Literal["all", "models"] = "all") -> None:
        """Take a checkpoint back; the next :meth:`fit` goes on where it was saved, in the middle of an epoch too.

        Of several ranks all have to call this, and all read the file; another number of them than wrote it will do. One
        that a ModelCheckpoint kept for a metric of the step itself, such as ``ul_loss``, gives back the variables at
        which that was measured, before the step's update; ``fit(resume_from="last")`` those after it.

        Args:
            path: the file.
            what: ``"all"``; or ``"models"`` for both models' parameters and buffers alone, to fine-tune or evaluate
                under other settings: each that differs is a warning. The rest stays as it is, and y_0 of DI and of a
                cold start is the lower model's value.

        Raises:
            ValueError: for another ``what``.
            CheckpointError: if the file is missing, damaged, of a newer format, or of another configuration; with
                ``"models"`` of models with other names or shapes.
            RuntimeError: within a ``fit``, but for ``setup``: the step under way would go on with other variables.
        """
        self.current_run.resumption.require_between_fits()
        arguments.choice("what", what, ("all", "models"))
        (checkpoint.load if what == "all" else load_models)(self, path)

    def save_weights(self, path: str | Path, level: Literal["ll", "ul"] | None = None) -> None:
        """Write the parameters and buffers of the models as one flat ``.npz``, for ``jboat.load_weights`` and numpy.

        Args:
            path: the file, which is there whole or not at all.
            level: ``"ll"`` or ``"ul"`` for one model, under its parameters' own names; None for both, with
                ``ll_model.`` and ``ul_model.`` before them.

        Raises:
            ValueError: for another ``level``.
            OSError: if the file cannot be written; one that was there before is left as it was.
        """
        if ranks.rank() == 0:
            weights.save(self, path, level)

    def configuration(self) -> dict[str, Any]:
        """What this trainer was made with, as JSON can hold it."""
        return copy.deepcopy(self._configuration)

    def values(self) -> dict[str, np.ndarray]:
        """Copies of every parameter and buffer of both models by name."""
        return {name: v.numpy().copy() for name, v in checkpoint.variables(self).items()}

    def set_values(self, values: Mapping[str, np.ndarray]) -> None:
        """Put back what :meth:`values` gave."""
        for name, v in checkpoint.variables(self).items():
            v.update(checkpoint.as_var(values[name]))

    def _overridden(self, name: str) -> Objective:
        if getattr(type(self), name) is getattr(BilevelTrainer, name):
            raise TypeError(f"{name} is missing: pass it to the constructor, or override it in a subclass")
        method: Objective = getattr(self, name)
        return method
