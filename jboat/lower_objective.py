"""phi_k, what lower step k minimises: the lower objective, aggregated with the upper one, with a proximal term."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import contextlib
import inspect
from typing import Any
import weakref

from jboat import functional, registry
import jittor as jt

Objective = Callable[..., jt.Var]
Batch = Mapping[str, Any]


def call(objective: Objective, *args: Any, parameters: Sequence[jt.Var]) -> jt.Var:
    """Call an objective, with ``params=`` when its signature takes it, and check what it returns.

    Raises:
        TypeError: if it returns something other than a Var.
        ValueError: if it returns more than one number.
    """
    keywords = {"params": list(parameters)} if _accepts_params(objective) else {}
    loss = objective(*args, **keywords)
    name = getattr(objective, "__name__", type(objective).__name__)
    if not isinstance(loss, jt.Var):
        raise TypeError(f"{name} must return a scalar jt.Var, got {type(loss).__name__}")
    if loss.numel() != 1:
        raise ValueError(f"{name} must return a scalar, got shape {list(loss.shape)}; take its mean() or sum()")
    return loss


_accepting: dict[int, tuple[weakref.ref[Any], bool]] = {}
"""Whether an objective takes ``params=``, by its id: an objective need not be hashable, and is not kept alive."""


def _accepts_params(objective: Objective) -> bool:
    key = id(objective)
    known = _accepting.get(key)
    if known is not None and known[0]() is objective:
        return known[1]
    accepts = _signature_accepts_params(objective)
    with contextlib.suppress(TypeError):  # it takes no weak references
        _accepting[key] = weakref.ref(objective, lambda _: _accepting.pop(key, None)), accepts
    return accepts


def _signature_accepts_params(objective: Objective) -> bool:
    try:
        parameters = inspect.signature(objective).parameters
    except (TypeError, ValueError):
        return False
    return "params" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def batch_of_step(feed: Batch | Sequence[Batch], step: int) -> Batch:
    """The lower batch of an inner step: ``feed`` itself, or its entry when there is one per step."""
    return feed if isinstance(feed, Mapping) else feed[step]


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
        solver_config: read for ``gm_op``, ``na_op``, ``gda_loss`` and the sections GDA and IAD.
        aggregated: whether GDA applies; by default whether ``gm_op`` names it.
    """

    def __init__(
        self,
        ll_objective: Objective,
        ul_objective: Objective,
        ul_model: jt.Module,
        solver_config: Mapping[str, Any],
        *,
        aggregated: bool | None = None,
    ) -> None:
        self._ll_objective = ll_objective
        self._ul_objective = ul_objective
        self._ul_model = ul_model
        self._solver_config = solver_config
        self.gda_loss: Objective | None = solver_config.get("gda_loss")
        if aggregated is None:
            gm_op = solver_config.get("gm_op")
            aggregated = self.gda_loss is not None if gm_op is None else "GDA" in gm_op
        self.aggregated = aggregated
        self._upper_statistics = functional.buffers(ul_model) if aggregated else []
        self._implicit = registry.is_implicit(solver_config.get("na_op") or ())

    @property
    def alpha(self) -> float:
        """The weight of the upper objective at inner step 0."""
        return float(registry.options(self._solver_config, "GDA").alpha_init)

    @property
    def alpha_decay(self) -> float:
        """The factor by which the weight shrinks from one inner step to the next."""
        return float(registry.options(self._solver_config, "GDA").alpha_decay)

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
        weight = self.alpha * self.alpha_decay**step if self.aggregated else 0.0
        loss = self.weighted(model, parameters, weight, feed, ul_feed_dict)
        if self._implicit:
            proximal = float(registry.options(self._solver_config, "IAD").proximal)
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
