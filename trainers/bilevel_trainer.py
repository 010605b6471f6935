"""The trainer: both levels, their operators and the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
import copy
import logging
from pathlib import Path
from typing import Any, Literal

from jboat import functional, registry
from jboat.callbacks.callback import Callback
from jboat.callbacks.csv_logger import CSVLogger
from jboat.callbacks.row_logger import RowLogger
from jboat.callbacks.tensorboard_logger import TensorBoardLogger
import jboat.fo_ol
import jboat.gm_ol
from jboat.lower_objective import Objective
import jboat.na_ol  # noqa: F401
from jboat.optim import UpdateRule
from jboat.trainers import checkpoint, configuration, seeding, validation
from jboat.trainers import device as devices
from jboat.trainers.bilevel_pass import Events, Problem, bilevel_pass, failure_of, unrolled_value
from jboat.trainers.callback_list import CallbackList
from jboat.trainers.dual_multiplier_pass import dual_multiplier_pass
from jboat.trainers.errors import NonFiniteError
from jboat.trainers.evaluation import evaluation_mode, weighted_means
from jboat.trainers.first_order_pass import first_order_pass
from jboat.trainers.fit_loop import FitLoop
from jboat.trainers.history import History
from jboat.trainers.history_recorder import HistoryRecorder
from jboat.trainers.hypergradient_result import HyperGradientResult, mean
from jboat.trainers.loaders import as_item, check_loader
from jboat.trainers.step_batches import Pair, task_pairs
from jboat.trainers.trainer_state import TrainerState
from jboat.trajectory import Trajectory
import jittor as jt
import numpy as np

_logger = logging.getLogger(__name__)

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
        fo_op: a first-order method instead of both chains, which are then not used. The lower optimizer's state carries
            over.
        lower_iters: K, the number of lower steps in an outer step.
        solver_config: options of the operators, one section each, such as ``{"CG": {"k": 20}}``.
        gda_loss: GDA's aggregated objective, called ``g(ll_batch, ul_batch, ul_model, ll_model)`` with the weight in
            ``ll_batch["alpha"]``; by default ``alpha F + (1 - alpha) f``.
        ll_var: lower-level variables; by default those of ``ll_model`` that ``ll_optimizer`` holds.
        ul_var: upper-level variables; by default those of ``ul_model`` that ``ul_optimizer`` holds.
        warm_start: whether a lower loop starts where the last one ended, or from the initial y_0. DI and IAD have
            starts of their own.
        lower_batches: ``"shared"``: the K lower steps of an outer step share a batch; ``"fresh"``: each has its own.
        ll_optimizer_state: ``"reset"``: every lower loop starts a fresh optimizer; ``"carry"``: it goes on with the
            state that the last one left, which is kept in ``ll_optimizer``.
        accumulate: how many hypergradients an upper step averages.
        metrics: numbers that :meth:`evaluate` adds, each called ``metric(batch, ul_model, ll_model)``.
        callbacks: see :mod:`jboat.callbacks`.
        logger_dir: the folder of loggers that are given none. With it, and no logger among ``callbacks``, CSV and
            TensorBoard logs are written.
        seed: seeds Python, numpy and Jittor when ``fit`` first starts; None leaves them alone.
        device: ``"auto"`` (CUDA where Jittor has it), ``"cpu"`` or ``"cuda"``.
        deterministic: seed Jittor's generator before every lower step, so that a step's random numbers depend on
            ``seed`` and the step alone.

    Raises:
        TypeError: for an argument of a wrong kind.
        ValueError: for an argument out of range, an invalid chain, or optimizers that do not fit the models.

    Attributes:
        state: where the run stands.
        history: one row an outer step.
        solver_config: the options, which schedules may change while training.
        initialization: y_0 of DI and of a cold start, one Var per entry of ``ll_var``; None until ``fit`` has started.
        auxiliary: what a first-order method keeps from step to step, by name.
        pairs: the batches of the outer step under way, one (lower, upper) pair per hypergradient.
        random_seed: what random numbers derive from; ``seed``, or one drawn when the first step needs it.
        loaded_from: the checkpoint that was taken back last, or None.
    """

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
        lower_iters: int = 10,
        solver_config: Mapping[str, Mapping[str, Any]] | None = None,
        gda_loss: Objective | None = None,
        ll_var: Sequence[jt.Var] | None = None,
        ul_var: Sequence[jt.Var] | None = None,
        warm_start: bool = True,
        lower_batches: Literal["shared", "fresh"] = "shared",
        ll_optimizer_state: Literal["reset", "carry"] = "reset",
        accumulate: int = 1,
        metrics: Mapping[str, Metric] | None = None,
        callbacks: Iterable[Callback] = (),
        logger_dir: str | Path | None = None,
        seed: int | None = None,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        deterministic: bool = True,
    ) -> None:
        validation.module("ll_model", ll_model)
        validation.module("ul_model", ul_model)
        if fo_op is not None:
            validation.choice("fo_op", fo_op, sorted(registry.operators("fo")))
            validation.single_step(f"fo_op={fo_op!r}", warm_start, lower_batches)
            ll_optimizer_state = "carry"
        gm_chain, na_chain = registry.order_chain(gm_op, na_op)
        validation.positive_integer("lower_iters", lower_iters)
        validation.positive_integer("accumulate", accumulate)
        validation.choice("lower_batches", lower_batches, ("shared", "fresh"))
        validation.choice("ll_optimizer_state", ll_optimizer_state, ("reset", "carry"))
        sections = solver_config if solver_config is not None else {}
        registry.check_sections(sections)
        validation.chain_options(gm_chain, na_chain, sections, lower_iters)
        if "DM" in gm_chain:
            validation.single_step("gm_op DM", warm_start, lower_batches)
        self.ll_model = ll_model
        self.ul_model = ul_model
        if ll_optimizer is None and ul_optimizer is None:
            ll_optimizer, ul_optimizer = self.configure_optimizers()
        self.ll_optimizer = validation.optimizer("ll_optimizer", ll_optimizer)
        self.ul_optimizer = validation.optimizer("ul_optimizer", ul_optimizer)
        self.ll_var = validation.variables("ll", ll_var, ll_model, self.ll_optimizer)
        self.ul_var = validation.variables("ul", ul_var, ul_model, self.ul_optimizer)
        if "IAD" in na_chain:
            validation.same_structure(self.ll_var, self.ul_var)
        self.rule = UpdateRule(self.ll_optimizer, self.ll_var)
        self.solver_config = {name: dict(section) for name, section in sections.items()}
        self.lower_iters = lower_iters
        self.warm_start = warm_start
        self.lower_batches = lower_batches
        self.ll_optimizer_state = ll_optimizer_state
        self.accumulate = accumulate
        self.metrics = dict(metrics or {})
        self.logger_dir = None if logger_dir is None else Path(logger_dir)
        self.seed = seed
        self.device = devices.checked(device)
        self.deterministic = deterministic
        self.problem = Problem(
            ll_model=ll_model,
            ul_model=ul_model,
            ll_objective=ll_objective or self._overridden("ll_objective"),
            ul_objective=ul_objective or self._overridden("ul_objective"),
            ll_var=self.ll_var,
            ul_var=self.ul_var,
            ll_optimizer=self.ll_optimizer,
            ul_optimizer=self.ul_optimizer,
            gm_op=gm_chain,
            na_op=na_chain,
            lower_iters=lower_iters,
            sections=self.solver_config,
            gda_loss=gda_loss or getattr(self, "gda_loss", None),
            fo_op=fo_op,
        )
        given = self._with_default_loggers(list(callbacks))
        self.callbacks = CallbackList([HistoryRecorder(), *given], self.logger_dir)
        self.state = TrainerState()
        self.history = History()
        self.random_seed: int | None = None
        self.initialization: list[jt.Var] | None = None
        self.auxiliary: dict[str, list[jt.Var]] = {}
        self.pairs: list[Pair] = []
        self.loaded_from: Path | None = None
        self._loop: FitLoop | None = None
        self._saved_positions: dict[str, Any] | None = None
        self._saved_callback_states: Mapping[str, Any] = {}
        self._configuration = self._described()

    @classmethod
    def from_config(cls, source: str | Path | Mapping[str, Any], **objects: Any) -> BilevelTrainer:
        """Build a trainer from a configuration.

        Args:
            source: a ``.json`` or ``.toml`` file, a dict, or a folder with BOAT's ``boat_config.json`` and
                ``loss_config.json``; see docs/configuration.md.
            objects: constructor arguments, such as models, that take precedence.

        Raises:
            ConfigurationError: with everything that is wrong.
        """
        config, notes = configuration.read(source)
        for note in notes:
            _logger.warning("%s", note)
        return configuration.build(config, objects, cls)

    @property
    def gm_op(self) -> tuple[str, ...]:
        """The lower-level chain in the order it runs."""
        return self.problem.gm_op

    @property
    def na_op(self) -> tuple[str, ...]:
        """The hypergradient chain in the order it runs."""
        return self.problem.na_op

    @property
    def fo_op(self) -> str | None:
        """The first-order method that replaces both chains, or None."""
        return self.problem.fo_op

    def ll_objective(self, batch: dict[str, Any], ul_model: jt.Module, ll_model: Trajectory) -> jt.Var:
        """f; override it in a subclass or give the argument ``ll_objective``."""
        raise TypeError(f"{type(self).__name__} has no ll_objective")

    def ul_objective(self, batch: dict[str, Any], ul_model: jt.Module, ll_model: Trajectory) -> jt.Var:
        """F; override it in a subclass or give the argument ``ul_objective``."""
        raise TypeError(f"{type(self).__name__} has no ul_objective")

    def configure_optimizers(self) -> tuple[jt.optim.Optimizer | None, jt.optim.Optimizer | None]:
        """The lower and the upper optimizer, for a subclass that is given none."""
        return None, None

    def evaluation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The numbers of one evaluation batch: the upper loss as ``ul_loss``, and ``metrics``."""
        numbers: dict[str, Any] = {"ul_loss": self.problem.ul_objective(batch, self.ul_model, self.ll_model)}
        for name, metric in self.metrics.items():
            numbers[name] = metric(batch, self.ul_model, self.ll_model)
        return numbers

    def evaluate(self, loader: Any) -> dict[str, float]:
        """Means of :meth:`evaluation_step` over a loader, weighted by batch size, at the present parameters.

        No graph is built, dropout is off, and nothing of the training state changes.

        Raises:
            TypeError: if the loader is of a wrong kind, or ``evaluation_step`` returns no dict.
            ValueError: if the loader is empty.
        """
        check_loader(loader, "loader")
        with devices.scope(self.device), evaluation_mode([self.ul_model, self.ll_model]):
            return weighted_means(loader, self.evaluation_step)

    def hypergradient(self, ll_batch: Any, ul_batch: Any) -> HyperGradientResult:
        """The hypergradient at the present parameters; models, optimizers and batches stay as they are.

        Args:
            ll_batch: a lower batch; a list of K of them where ``lower_batches`` is ``"fresh"``. Lists of tasks at both
                levels give the average of the tasks' hypergradients.
            ul_batch: an upper batch.

        Raises:
            TypeError: for a batch of a wrong kind.
            ValueError: for another number of lower batches than K, or of tasks.
            NonFiniteError: if a lower loss is NaN or infinite.
        """
        fresh = self.lower_batches == "fresh"
        given = list(ll_batch) if fresh else [ll_batch]
        if fresh and len(given) != self.lower_iters:
            raise ValueError(f"ll_batch must be a list of lower_iters = {self.lower_iters} batches, got {len(given)}")
        lower_items = [as_item(item, "ll_batch") for item in given]
        pairs = task_pairs(lower_items, as_item(ul_batch, "ul_batch"), fresh)
        buffers = [b for model in (self.ul_model, self.ll_model) for b in functional.buffers(model)]
        with devices.scope(self.device), functional.preserved(buffers):
            result = mean([self.run_pass(pair, Events(), task) for task, pair in enumerate(pairs)])
        if result.failure is not None:
            raise result.failure
        return result

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
                on the first batch. This calls the objective up to ten times; see :mod:`jboat.second_order`.

        Returns:
            The history: one row an outer step of this trainer.

        Raises:
            TypeError: for a loader or a batch of a wrong kind.
            ValueError: for an empty loader or a limit out of range.
            NonFiniteError: if a loss or a gradient is NaN or infinite.
            SecondOrderError: if the lower objective has a wrong second derivative that the operators need.
            CheckpointError: if the checkpoint cannot be used.
            KeyboardInterrupt: at the end of the step under way after a Ctrl-C, checkpoint saved and callbacks closed.
            SystemExit: the same after a SIGTERM; a handler of the user's is called instead. See docs/checkpoints.md.
        """
        for name, limit in (("max_epochs", max_epochs), ("max_steps", max_steps), ("val_every", val_every)):
            if limit is not None:
                validation.positive_integer(name, limit)
        if max_time is not None and not max_time > 0:
            raise ValueError(f"max_time must be positive seconds, got {max_time!r}")
        if val_every is not None and val_loader is None:
            raise ValueError("val_every needs val_loader")
        check_loader(ll_loader, "ll_loader")
        check_loader(ul_loader, "ul_loader")
        if val_loader is not None:
            check_loader(val_loader, "val_loader")
        if max_epochs is max_steps is max_time is None:
            max_epochs = 1
        loop = FitLoop(self, ll_loader, ul_loader, val_loader, val_every, check_second_order)
        with devices.scope(self.device):
            loop.run(max_epochs=max_epochs, max_steps=max_steps, max_time=max_time, resume_from=resume_from)
        return self.history

    def save_checkpoint(self, path: str | Path) -> None:
        """Write everything that a run needs to go on exactly as if it had not stopped.

        Raises:
            OSError: if the file cannot be written; one that was there before is left as it was.
        """
        checkpoint.save(self, path)

    def load_checkpoint(self, path: str | Path) -> None:
        """Take a checkpoint back; the next :meth:`fit` goes on where it was saved, in the middle of an epoch too.

        Raises:
            CheckpointError: if the file is missing, damaged, of a newer format, or of another configuration.
        """
        checkpoint.load(self, path)

    def loader_positions(self) -> dict[str, Any] | None:
        """Where the loaders stand, for a checkpoint; None before the first ``fit``."""
        if self._loop is None:
            return self._saved_positions
        return self._loop.positions()

    def resume_positions(self, positions: dict[str, Any] | None, callback_states: Mapping[str, Any]) -> None:
        """Keep where the loaders stood, and what callbacks remembered, for the next ``fit``."""
        self._saved_positions, self._loop = positions, None
        self._saved_callback_states = callback_states

    def take_positions(self, loop: FitLoop) -> bool:
        """Send a loop's loaders where a checkpoint left them; returns whether there was one."""
        positions, self._saved_positions, self._loop = self._saved_positions, None, loop
        states, self._saved_callback_states = self._saved_callback_states, {}
        for key, callback in self.callbacks.by_key().items():
            if key in states:  # ``setup`` has let it start afresh
                callback.load_state_dict(states[key])
        if positions is None:
            return False
        loop.take_positions(positions)
        return True

    def draw_random_seed(self) -> int:
        """What this run's random numbers derive from: ``seed``, or a number drawn once."""
        if self.random_seed is None:
            self.random_seed = seeding.drawn_seed() if self.seed is None else self.seed
        return self.random_seed

    def configuration(self) -> dict[str, Any]:
        """What this trainer was made with, as JSON can hold it."""
        return copy.deepcopy(self._configuration)

    def _described(self) -> dict[str, Any]:
        return {
            **({"gm_op": list(self.gm_op), "na_op": list(self.na_op)} if self.fo_op is None else {"fo_op": self.fo_op}),
            "lower_iters": self.lower_iters,
            "solver_config": copy.deepcopy(self.solver_config),
            "ll_model": type(self.ll_model).__name__,
            "ul_model": type(self.ul_model).__name__,
            "ll_optimizer": _described(self.ll_optimizer),
            "ul_optimizer": _described(self.ul_optimizer),
            "warm_start": self.warm_start,
            "lower_batches": self.lower_batches,
            "ll_optimizer_state": self.ll_optimizer_state,
            "accumulate": self.accumulate,
            "seed": self.seed,
            "device": self.device,
            "deterministic": self.deterministic,
        }

    def values(self) -> dict[str, np.ndarray]:
        """Copies of every parameter and buffer of both models by name."""
        return {name: v.numpy().copy() for name, v in checkpoint.variables(self).items()}

    def set_values(self, values: Mapping[str, np.ndarray]) -> None:
        """Put back what :meth:`values` gave."""
        for name, v in checkpoint.variables(self).items():
            v.update(checkpoint.as_var(values[name]))

    def evaluates_after(self, step: int) -> bool:
        """Whether the running ``fit`` evaluates after this outer step."""
        return self._loop is not None and self._loop.evaluates_after(step)

    def failure_of(self, result: HyperGradientResult) -> NonFiniteError | None:
        """What of the outer step under way is NaN or infinite, or None."""
        return failure_of(self.problem, result, self.state.step + 1)

    def unrolled_value(self, x: Sequence[np.ndarray]) -> float:
        """F(x, y_K(x)) on the batches of the outer step under way, averaged over its pairs; nothing changes.

        Args:
            x: one array per entry of ``ul_var``.
        """
        shifted = [checkpoint.as_var(array) for array in x]
        buffers = [b for model in (self.ul_model, self.ll_model) for b in functional.buffers(model)]
        values = []
        for task, pair in enumerate(self.pairs):
            start = self._start(task)
            moved = self.ul_var
            if "IAD" in self.na_op:  # x is the initialisation alone
                start["initial"], moved = shifted, []
            with functional.preserved(buffers), functional.substituted(moved, shifted[: len(moved)]):
                values.append(unrolled_value(self.problem, pair, **start))
        return sum(values) / len(values)

    def next_initial(self) -> list[jt.Var]:
        """y_0 of the next lower loop."""
        if "IAD" in self.na_op:
            return self.ul_var
        if self.initialization is not None and ("DI" in self.gm_op or not self.warm_start):
            return self.initialization
        return self.ll_var

    def run_pass(self, pair: Pair, events: Events, task: int = 0) -> HyperGradientResult:
        """Lower loop and hypergradient chain for one pair of batches."""
        if self.fo_op is not None:
            auxiliary = self.auxiliary or None
            return first_order_pass(self.problem, pair, step=self.state.step + 1, auxiliary=auxiliary, events=events)
        if "DM" in self.gm_op:
            carried = self.rule.load() if self.ll_optimizer_state == "carry" else None
            multiplier = self.auxiliary.get("multiplier")
            return dual_multiplier_pass(
                self.problem, pair, step=self.state.step + 1, ll_state=carried, multiplier=multiplier, events=events
            )
        return bilevel_pass(self.problem, pair, step=self.state.step + 1, events=events, **self._start(task))

    def _start(self, task: int) -> dict[str, Any]:
        """Where a lower loop of the present outer step starts."""
        seeds = seeding.derived_seeds(self.draw_random_seed(), self.state.step, task)

        def reseed(inner_step: int) -> None:
            jt.set_seed(seeds(inner_step))

        return {
            "initial": self.next_initial(),
            "ll_state": self.rule.load() if self.ll_optimizer_state == "carry" else None,
            "reseed": reseed if self.deterministic else None,
        }

    def _overridden(self, name: str) -> Objective:
        if getattr(type(self), name) is getattr(BilevelTrainer, name):
            raise TypeError(f"{name} is missing: pass it to the constructor, or override it in a subclass")
        method: Objective = getattr(self, name)
        return method

    def _with_default_loggers(self, callbacks: list[Callback]) -> list[Callback]:
        if self.logger_dir is None or any(isinstance(c, (RowLogger, TensorBoardLogger)) for c in callbacks):
            return callbacks
        return [*callbacks, CSVLogger(), TensorBoardLogger()]


def _described(optimizer: jt.optim.Optimizer) -> dict[str, Any]:
    plain = {name: value for name, value in optimizer.defaults.items() if isinstance(value, (bool, int, float, tuple))}
    return {"class": type(optimizer).__name__, **plain}
