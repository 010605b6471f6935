"""Both levels as operators call them: objectives of a batch and of both models, what they take and what they return."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
from contextvars import ContextVar
from typing import Any, TypeAlias
import weakref

from jboat import functional, params_argument, precision
from jboat.backend import batch_statistics, ranks, replicated
from jboat.backend.jittor_alone import jittor_alone
from jboat.backend.ranks import Shard
import jittor as jt

Objective: TypeAlias = "Callable[..., jt.Var]"
Batch = Mapping[str, Any]


def call(objective: Objective, *args: Any, parameters: Sequence[jt.Var]) -> jt.Var:
    """The value of an objective: of a :class:`jboat.backend.ranks.Shard` the mean over all ranks, else this rank's.

    Every derivative of a data objective begins here, and those of a mean are derivatives of the mean, to any order. The
    variables of both levels hold the same values on all ranks, and so does whatever is computed from the mean and from
    its derivatives.

    Args:
        objective: the function, a mean over samples; called as :func:`result_of` does.
        args: its arguments: one or two batches, the upper-level model, and the lower-level model.
        parameters: those of the lower-level model's Vars that the lower level optimizes.

    Raises:
        TypeError: if it returns something other than a Var of floats.
        ValueError: if it returns more than one number, or if two batches are shared out among ranks in unequal ways.
    """
    if ranks.size() == 1:
        return call_here(objective, *args, parameters=parameters)
    weights = _weights(args[:-2])
    if weights is None:
        with jittor_alone():
            return call_here(objective, *args, parameters=parameters)
    weight = weights[ranks.rank()]
    with reduced_together(*args[:-1], parameters=parameters), batch_statistics.weighted(weight):
        loss = call_here(objective, *args, parameters=parameters)
        return replicated.summed([weight * loss])[0]


@contextlib.contextmanager
def reduced_together(*args: Any, parameters: Sequence[jt.Var]) -> Iterator[None]:
    """Let the derivatives of all objectives that are called inside the block be summed over ranks by one reduction.

    This has an effect where all batches are shards.

    Args:
        args: the batches of these objectives, and their upper-level model.
        parameters: as :func:`call` takes them.
    """
    shards = ranks.size() > 1 and all(isinstance(batch, Shard) for batch in args[:-1])
    handles = tuple(map(id, parameters))
    if not shards or _shared.get() == handles:
        yield
        return
    upper = _upper_variables(args[-1])
    # apart, so that a derivative by one level's variables alone reduces, and computes, nothing for the other's
    values = [*replicated.shared(upper), *replicated.shared(parameters)]
    before = _shared.set(handles)
    try:
        with functional.substituted([*upper, *parameters], values):
            yield
    finally:
        _shared.reset(before)


_shared: ContextVar[tuple[int, ...]] = ContextVar("the lower variables that hold values shared by ranks", default=())


def call_here(objective: Objective, *args: Any, parameters: Sequence[jt.Var]) -> jt.Var:
    """The value of an objective on this rank's batch alone; see :func:`call`.

    Raises:
        TypeError: if it returns something other than a Var of floats.
        ValueError: if it returns more than one number.
    """
    loss = result_of(objective, *args, parameters=parameters)
    name = getattr(objective, "__name__", type(objective).__name__)
    if not isinstance(loss, jt.Var):
        raise TypeError(f"{name} must return a scalar jt.Var, got {type(loss).__name__}")
    if loss.numel() != 1:
        raise ValueError(f"{name} must return a scalar, got shape {list(loss.shape)}; take its mean() or sum()")
    if not loss.dtype.is_float():
        raise TypeError(f"{name} must return a float, which has derivatives, got {loss.dtype}")
    return loss


def upper_variables_are(variables: Sequence[jt.Var], model: jt.Module) -> None:
    """Say which Vars the upper level optimizes with a model; else they are its trainable parameters.

    Those that several trainers of one model name count together.

    Args:
        variables: x, parameters of the model or others that objectives depend on.
        model: the upper-level model, as objectives get it.
    """
    key = id(model)  # a model may compare as it likes, and have no hash
    if key not in _named:
        _named[key] = weakref.ref(model, lambda _: _named.pop(key, None)), {}
    _named[key][1].update({id(v): v for v in variables})


def _upper_variables(model: jt.Module | None) -> list[jt.Var]:
    if model is None:
        return []
    _, named = _named.get(id(model), (None, {}))
    return list(named.values()) if named else functional.trainable(model)


_named: dict[int, tuple[weakref.ref[jt.Module], dict[int, jt.Var]]] = {}
"""By the ids of models that live, which the references see to."""


def _weights(batches: Sequence[Batch]) -> tuple[float, ...] | None:
    """What each rank's value counts for in the mean over all ranks' samples; None where nothing is shared."""
    shares = {batch.weights for batch in batches if isinstance(batch, Shard)}
    if len(shares) > 1:
        raise ValueError(
            "gda_loss takes a lower and an upper batch whose samples are spread over ranks in unequal shares, so that "
            "no weight is right for their sum; choose batch sizes that are multiples of the number of ranks, or leave "
            "gda_loss out: GDA then weights both objectives by themselves"
        )
    return shares.pop() if shares else None


def result_of(function: Callable[..., Any], *args: Any, parameters: Sequence[jt.Var]) -> Any:
    """Call a function of a batch and both models: an objective or a metric.

    It is handed the models themselves, and ``params=`` where its signature takes it, by name or as one of
    ``**kwargs``. The lower-level model can then be called with ``params=`` too, whatever its own signature is.

    Args:
        function: the function.
        args: its arguments, the lower-level model last.
        parameters: those of the model's Vars that the lower level optimizes, handed on as ``params``. They hold the
            iterate in question.
    """
    with precision.products():
        if not any(params_argument.signature_of(function)):
            return function(*args)
        with params_argument.accepted(args[-1], parameters):
            return function(*args, params=list(parameters))


def with_entries(batch: Batch, **entries: Any) -> Batch:
    """A copy of a batch with more entries, which is as much of what all ranks share."""
    copy = {**batch, **entries}
    return Shard(copy, batch.weights) if isinstance(batch, Shard) else copy


def batch_of_step(feed: Batch | Sequence[Batch], step: int) -> Batch:
    """The lower batch of an inner step: ``feed`` itself, or its entry when there is one per step."""
    return feed if isinstance(feed, Mapping) else feed[step]


def batches_of_step(feed: Batch | Sequence[Batch]) -> list[Batch]:
    """All batches of one level in an outer step."""
    return [feed] if isinstance(feed, Mapping) else list(feed)
