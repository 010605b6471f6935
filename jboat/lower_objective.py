"""phi_k, what lower step k minimises: the lower objective, aggregated with the upper one, with a proximal term."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import functools
import inspect
from typing import Any
import weakref

from jboat import functional, registry
from jboat.optim import UpdateRule
from jboat.registered_operator import Operator
from jboat.trajectory import Trajectory
from jboat.warn_once import WarnOnce
import jittor as jt

Objective = Callable[..., jt.Var]
Batch = Mapping[str, Any]

_known: weakref.WeakKeyDictionary[Any, tuple[bool, bool]] = weakref.WeakKeyDictionary()


def call(objective: Objective, *args: Any, parameters: Sequence[jt.Var]) -> jt.Var:
    """Call an objective as :func:`result_of` does, and check what it returns.

    Args:
        objective: the function.
        args: its arguments, the lower-level model last.
        parameters: what the model holds.

    Raises:
        TypeError: if it returns something other than a Var.
        ValueError: if it returns more than one number.
    """
    loss = result_of(objective, *args, parameters=parameters)
    name = getattr(objective, "__name__", type(objective).__name__)
    if not isinstance(loss, jt.Var):
        raise TypeError(f"{name} must return a scalar jt.Var, got {type(loss).__name__}")
    if loss.numel() != 1:
        raise ValueError(f"{name} must return a scalar, got shape {list(loss.shape)}; take its mean() or sum()")
    return loss


def result_of(function: Callable[..., Any], *args: Any, parameters: Sequence[jt.Var]) -> Any:
    """Call a function of a batch and both models: an objective or a metric.

    It is handed the lower-level model itself, and ``params=`` where its signature takes it, by name or as one of
    ``**kwargs``. The model can then be called with ``params=`` too, whatever its own signature is.

    Args:
        function: the function.
        args: its arguments. The last is the lower-level model: a module that holds ``parameters``, or a trajectory
            while it does.
        parameters: what to hand on as ``params``.
    """
    *others, model = args
    module, variables = (model.module, model.variables) if isinstance(model, Trajectory) else (model, parameters)
    if any(_takes_params(function)):
        given = list(parameters)
        with _accepting_params(module, variables, given):
            result = function(*others, module, params=given)
    else:
        result = function(*others, module)
    if any(result is v for v in variables):  # the variable itself, which is about to change back
        return functional.alias(result)
    return result


class _Execute:
    """A module's ``execute`` that takes ``params`` besides what it takes anyway.

    A copy of the module that is made while this is in place runs the copy, since this is copied with it.

    Args:
        module: the module.
        own: the ``execute`` that the module itself has, apart from its class.
        variables: the module's Vars that ``params`` stands for.
        held: what they hold now; where ``params`` is that, nothing is substituted.
    """

    def __init__(
        self, module: jt.Module, own: Callable[..., Any] | None, variables: Sequence[jt.Var], held: Sequence[jt.Var]
    ) -> None:
        self._module = module
        self._own = own
        self._variables = variables
        self._held = held

    @property
    def own(self) -> Callable[..., Any] | None:
        """The ``execute`` that the module itself has."""
        return self._own

    def __call__(self, *args: Any, params: Sequence[jt.Var] | None = None, **kwargs: Any) -> Any:
        execute = self._own or functools.partial(type(self._module).execute, self._module)
        if params is None:
            return execute(*args, **kwargs)
        values = list(params)
        if len(values) != len(self._variables):
            raise ValueError(f"params must hold {len(self._variables)} Vars, one a variable, got {len(values)}")
        if all(value is held for value, held in zip(values, self._held, strict=True)):
            return execute(*args, **kwargs)
        with functional.substituted(self._variables, values):
            result = execute(*args, **kwargs)
            return functional.alias(result) if any(result is v for v in self._variables) else result


@contextlib.contextmanager
def _accepting_params(module: jt.Module, variables: Sequence[jt.Var], held: Sequence[jt.Var]) -> Iterator[None]:
    """Let the module take ``params`` inside the block, unless it has an argument of that name itself."""
    before = vars(module).get("execute")
    own = before.own if isinstance(before, _Execute) else before
    named, _ = _takes_params(own or type(module).execute)
    if named:
        yield
        return
    vars(module)["execute"] = _Execute(module, own, variables, held)
    try:
        yield
    finally:
        if before is None:
            del vars(module)["execute"]
        else:
            vars(module)["execute"] = before


def _takes_params(function: Callable[..., Any]) -> tuple[bool, bool]:
    """Whether a function has an argument ``params``, and whether it has ``**kwargs``."""
    key = getattr(function, "__func__", function)  # a method is made anew whenever it is asked for
    try:
        return _known[key]
    except (KeyError, TypeError):  # TypeError: it has no hash, or cannot be referred to weakly
        taken = _parameters_of(function)
    with contextlib.suppress(TypeError):
        _known[key] = taken
    return taken


def _parameters_of(function: Callable[..., Any]) -> tuple[bool, bool]:
    if isinstance(function, functools.partial) and "params" in function.keywords:
        return False, False  # its user has said what params is
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False, False
    return "params" in parameters, any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def batch_of_step(feed: Batch | Sequence[Batch], step: int) -> Batch:
    """The lower batch of an inner step: ``feed`` itself, or its entry when there is one per step."""
    return feed if isinstance(feed, Mapping) else feed[step]


def with_weight_decay(
    loss: jt.Var,
    parameters: Sequence[jt.Var],
    rule: UpdateRule,
    *,
    operator: str = "",
    warn: WarnOnce | None = None,
) -> jt.Var:
    """What the lower optimizer minimises by following ``loss``: ``loss + sum_i (wd_i / 2) ||y_i||^2``.

    wd_i is the coupled weight decay of the variable's parameter group, which the optimizer adds to the gradient by
    itself. Whoever differentiates the point that lower steps lead to, rather than the steps, has to use this function.

    Args:
        loss: a data objective at ``parameters``, a scalar Var.
        parameters: y, one Var per lower-level variable.
        rule: the rule of the lower optimizer.
        operator: who asks, for the warning.
        warn: told of a decoupled weight decay, which is the gradient of no such term; None where it does not matter.

    Returns:
        ``loss`` itself where there is no coupled decay.
    """
    for y, decay in zip(parameters, rule.coupled_weight_decay(), strict=True):
        if decay:
            loss = loss + 0.5 * decay * functional.dot([y], [y])
    decoupled = 0.0 if warn is None else rule.decoupled_weight_decay()
    if warn is not None and decoupled:
        warn(
            "%s differentiates the solution of the lower objective, but the weight decay %g of %s is decoupled, which "
            "moves its fixed point away from every such solution: the hypergradient is that without weight decay. Use "
            "an optimizer with coupled decay (SGD, Adam), write the decay into the lower objective, or choose RAD",
            operator,
            decoupled,
            rule.optimizer_name,
        )
    return loss


class LowerObjective:
    """phi_k(y, x) for the inner steps k = 0, 1, ...

    Without GDA it is the lower objective f. With GDA (Liu et al. 2020, "A generic first-order algorithmic framework
    for bi-level programming beyond lower-level singleton") it is ``alpha_k F + (1 - alpha_k) f`` with
    ``alpha_k = alpha_init * alpha_decay ** k``, or the user's ``gda_loss``, which reads ``ll_feed_dict["alpha"]``.
    In implicit MAML (Rajeswaran et al. 2019, "Meta-learning with implicit gradients") the proximal term
    ``lam / 2 ||y - y_0||^2`` is added.

    Args:
        ll_objective: f, called ``f(ll_feed_dict, ul_model, ll_model)``.
        ul_objective: F, called ``F(ul_feed_dict, ul_model, ll_model)``.
        ul_model: the upper-level model.
        solver_config: read for ``gm_op``, ``na_op``, ``gda_loss`` and the sections of operators like GDA and IAD.
        aggregated: whether GDA applies; by default whether ``gm_op`` names an operator like it.
        aggregator: the operator like GDA whose weights apply; by default that of ``gm_op``, else GDA.
    """

    def __init__(
        self,
        ll_objective: Objective,
        ul_objective: Objective,
        ul_model: jt.Module,
        solver_config: Mapping[str, Any],
        *,
        aggregated: bool | None = None,
        aggregator: Operator | None = None,
    ) -> None:
        self._ll_objective = ll_objective
        self._ul_objective = ul_objective
        self._ul_model = ul_model
        plan, self._options = registry.plan_and_options(solver_config)
        self._aggregator = aggregator or plan.aggregator or registry.default_aggregator()
        self.gda_loss: Objective | None = solver_config.get("gda_loss")
        if aggregated is None:
            by_loss = self.gda_loss is not None and solver_config.get("gm_op") is None
            aggregated = by_loss or plan.aggregator is not None
        self.aggregated = aggregated
        self._upper_statistics = functional.buffers(ul_model) if aggregated else []

    @property
    def alpha(self) -> float:
        """The weight of the upper objective at inner step 0."""
        return self.weight(0)

    @property
    def alpha_decay(self) -> float:
        """The factor by which the weight shrinks from one inner step to the next."""
        decay = getattr(self._options.of(self._aggregator), "alpha_decay", None)
        return self.weight(1) / self.weight(0) if decay is None else float(decay)

    def weight(self, step: int) -> float:
        """The weight of the upper objective at inner step ``step``."""
        weight = self._aggregator.lower.weight
        return 0.0 if weight is None else float(weight(self._options.of(self._aggregator), step))

    def __call__(
        self,
        model: Any,
        parameters: Sequence[jt.Var],
        step: int,
        ll_feed_dict: Batch | Sequence[Batch],
        ul_feed_dict: Batch,
        anchor: Sequence[jt.Var],
    ) -> jt.Var:
        """Phi of inner step ``step``, a scalar Var.

        Args:
            model: what the objectives see as the lower-level model.
            parameters: the Vars that ``model`` runs with; handed on as ``params=``.
            step: the inner step, counted from 0.
            ll_feed_dict: the lower batch, or a sequence with one per step.
            ul_feed_dict: the upper batch; read by GDA only.
            anchor: y_0, read by the proximal term only.
        """
        feed = batch_of_step(ll_feed_dict, step)
        weight = self.weight(step) if self.aggregated else 0.0
        loss = self.weighted(model, parameters, weight, feed, ul_feed_dict)
        proximal = self._options.proximal
        if proximal:
            for y, y_0 in zip(parameters, anchor, strict=True):
                loss = loss + 0.5 * proximal * ((y - y_0) * (y - y_0)).sum()
        return loss

    def weighted(
        self, model: Any, parameters: Sequence[jt.Var], alpha: float, ll_feed: Batch, ul_feed: Batch
    ) -> jt.Var:
        """The aggregated objective with weight ``alpha`` on F, whatever the inner step; without GDA f itself."""
        if not self.aggregated:
            return call(self._ll_objective, ll_feed, self._ul_model, model, parameters=parameters)
        if self.gda_loss is not None:
            feed = {**ll_feed, "alpha": alpha}
            return call(self.gda_loss, feed, ul_feed, self._ul_model, model, parameters=parameters)

        def run_upper(model: Any) -> jt.Var:
            return call(self._ul_objective, ul_feed, self._ul_model, model, parameters=parameters)

        with functional.preserved(self._upper_statistics):  # they advance by the lower objective, once a step
            upper = model.evaluate(run_upper, parameters)
        lower = call(self._ll_objective, ll_feed, self._ul_model, model, parameters=parameters)
        return alpha * upper + (1.0 - alpha) * lower
