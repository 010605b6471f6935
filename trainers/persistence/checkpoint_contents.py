"""What a checkpoint may hold.

A file with the right checksum may come from anyone, so that every value is looked at, beside what the live trainer has,
before anything of the trainer changes. Each function returns what it has looked at or raises a ValueError that names
the value.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
import copy
from dataclasses import dataclass
import math
from typing import TYPE_CHECKING, Any

from jboat import registry
from jboat.callbacks.saved_values import is_count, same_kind
from jboat.trainers import chain_arguments
from jboat.trainers.data.loader_stream import check_position
from jboat.trainers.data.random_stream import unpacked_states
from jboat.trainers.history import History
from jboat.trainers.trainer_state import Phase, StopReason
import jittor as jt
import numpy as np

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer

_KEYS = (
    *("configuration", "variables", "ll_optimizer", "ul_optimizer", "initialization", "auxiliary", "solver_config"),
    *("random_seed", "generators", "state", "history", "callbacks", "loaders"),
)
_COUNTS = ("step", "epoch", "first_step", "first_epoch")
_STATE = (*_COUNTS, "phase", "metrics", "validation", "elapsed", "stop_reason")
_OPTIMIZERS = ("ll_optimizer", "ul_optimizer")
OF_MEMORY = (("RAD", "remat_every"), ("RAD", "checkpoints"))
"""Options of ``solver_config`` that trade memory for time alone; a trainer keeps its own."""


@dataclass
class Contents:
    """A checkpoint's values, all of them of the kind and shape that the trainer needs.

    Attributes:
        variables: arrays by the names of :func:`jboat.trainers.persistence.checkpoint.variables`.
        measured: those at which the step's own metrics were measured, of the variables of both levels; or none.
        initialization: y_0, or None.
        auxiliary: what a method keeps from step to step.
        sections: ``solver_config`` as schedules left it.
        loss_scale: what losses are multiplied by, and for how many good steps; of no meaning where nothing is scaled.
        state: fields of the trainer's state.
        history: rows of the history.
        generators: the states of Python's and numpy's global generators.
        tree: the rest, as it was read.
    """

    variables: dict[str, jt.Var]
    measured: dict[str, jt.Var]
    initialization: list[jt.Var] | None
    auxiliary: dict[str, list[jt.Var]]
    sections: dict[str, dict[str, Any]]
    loss_scale: tuple[float, int]
    state: dict[str, Any]
    history: History
    generators: tuple[Any, Any]
    tree: Mapping[str, Any]


def checked(trainer: BilevelTrainer, tree: Mapping[str, Any], named: Mapping[str, jt.Var]) -> Contents:
    """Look at every value.

    Args:
        trainer: what is to take them; it is left as it is.
        tree: what was read.
        named: the trainer's variables by name.

    Raises:
        ValueError: if a value is missing, of a wrong kind or shape, or out of range.
    """
    for level in _OPTIMIZERS:
        check_optimizer(getattr(trainer, level), tree[level], level)
    state = _state(tree["state"])
    seed = tree["random_seed"]
    if seed is not None and (type(seed) is not int or trainer.seed not in (None, seed)):
        raise ValueError(f"random_seed {seed!r} is not this trainer's")
    history = History()
    history.load_state_dict(_mapping(tree["history"], "history"))
    generators = unpacked_states(_mapping(tree["generators"], "generators"))
    _positions(tree["loaders"])
    _callbacks(trainer, tree["callbacks"])
    ll_var = trainer.ll_var
    initial = tree["initialization"]
    return Contents(
        variables={name: variable(tree["variables"][name], v, f"variables.{name}") for name, v in named.items()},
        measured=_measured(trainer, tree.get("measured", {}), named),
        initialization=None if initial is None else _vars(initial, ll_var, "initialization"),
        auxiliary=_auxiliary(trainer, tree["auxiliary"]),
        sections=_sections(trainer, tree["solver_config"]),
        loss_scale=_loss_scale(trainer, tree.get("loss_scale")),
        state=state,
        history=history,
        generators=generators,
        tree=tree,
    )


def require_keys(tree: Any) -> None:
    """Require all parts of a checkpoint.

    Raises:
        ValueError: if one is missing.
    """
    missing = [key for key in _KEYS if key not in _mapping(tree, "the checkpoint")]
    if missing:
        raise ValueError(f"it has no {', '.join(missing)}")
    _mapping(tree["configuration"], "configuration")
    for name, array in _mapping(tree["variables"], "variables").items():
        _array(array, f"variables.{name}")


def measured_arrays(tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays at which the step's own metrics were measured, by name; none in most checkpoints.

    Raises:
        ValueError: if they are no arrays, or have names of their own.
    """
    saved = _mapping(tree.get("measured", {}), "measured")
    unknown = [name for name in saved if name not in tree["variables"]]
    if unknown:
        raise ValueError(f"measured has {_shown(unknown)}, which variables has not")
    return {name: _array(array, f"measured.{name}") for name, array in saved.items()}


def check_optimizer(optimizer: jt.optim.Optimizer, saved: Any, name: str) -> None:
    """Require an optimizer's own numbers and lists of arrays, each of the kind and shape that it has.

    Raises:
        ValueError: for anything else.
    """
    _require(saved, ("values", "groups"), name)
    own = plain_values(optimizer)
    _numbers(saved["values"], own, own, f"{name}.values")
    groups = saved["groups"]
    if not isinstance(groups, list) or len(groups) != len(optimizer.param_groups):
        count = len(groups) if isinstance(groups, list) else "no"
        raise ValueError(f"{name}: {count} parameter groups were saved, there are {len(optimizer.param_groups)}")
    for i, (group, entry) in enumerate(zip(optimizer.param_groups, groups, strict=True)):
        place = f"{name}.groups[{i}]"
        _require(entry, ("values", "lists"), place)
        in_group = plain_entries(group)
        known = {"initial_lr": 0.0, **own, **in_group}  # a group may have a number of its own in place of each
        _numbers(entry["values"], known, in_group, f"{place}.values")
        lists = var_lists(group)
        for key, arrays in _mapping(entry["lists"], f"{place}.lists").items():
            if key == "params" or key in known or (key in group and key not in lists):
                raise ValueError(f"{place}.lists has {key!r}, which is no list of arrays there")
            # some optimizers make a list at their first step, with one entry for each parameter
            _float_arrays(arrays, lists.get(key, group["params"]), f"{place}.lists.{key}")
        missing = [key for key in lists if key not in entry["lists"] and key != "grads"]
        if missing:
            raise ValueError(f"{place}.lists has no {', '.join(missing)}")


def plain_values(optimizer: jt.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's own attributes that are numbers, strings, None, or lists of them."""
    return {n: v for n, v in vars(optimizer).items() if not n.startswith("_") and _is_plain(v)}


def plain_entries(group: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a parameter group."""
    return {n: v for n, v in group.items() if n != "params" and _is_plain(v)}


def var_lists(group: Mapping[str, Any]) -> dict[str, list[jt.Var]]:
    """A parameter group's lists of Vars other than its parameters."""
    return {n: v for n, v in group.items() if n != "params" and _is_var_list(v)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(entry) for entry in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _is_var_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, jt.Var) for v in value)


def _numbers(saved: Any, known: Mapping[str, Any], needed: Collection[str], name: str) -> None:
    """Require known names, with values of the kind that each has now."""
    for key, value in _mapping(saved, name).items():
        if key not in known:
            raise ValueError(f"{name} has {key!r}, which is unknown there")
        if not same_kind(value, known[key]):
            raise ValueError(f"{name}.{key} cannot be {_shown(value)}: it is {known[key]!r} here")
        if key == "n_step" and not is_count(value):
            raise ValueError(f"{name}.n_step must be a count, got {value}")
    missing = [key for key in needed if key not in saved]
    if missing:
        raise ValueError(f"{name} has no {', '.join(missing)}")


def _state(saved: Any) -> dict[str, Any]:
    _require(saved, _STATE, "state")
    for name in _COUNTS:
        if not is_count(saved[name]):
            raise ValueError(f"state.{name} must be a count, got {_shown(saved[name])}")
    if saved["first_step"] > saved["step"] or saved["first_epoch"] > saved["epoch"]:
        raise ValueError("state began after it ended")
    phases = [phase.value for phase in Phase]
    if saved["phase"] not in phases:
        raise ValueError(f"state.phase must be one of {', '.join(phases)}, got {_shown(saved['phase'])}")
    for name in ("metrics", "validation"):
        for metric, value in _mapping(saved[name], f"state.{name}").items():
            if not isinstance(value, (int, float)):
                raise ValueError(f"state.{name}.{metric} must be a number, got {_shown(value)}")
    elapsed = saved["elapsed"]
    if type(elapsed) not in (int, float) or not 0.0 <= elapsed < math.inf:
        raise ValueError(f"state.elapsed must be seconds, got {_shown(elapsed)}")
    reason = saved["stop_reason"]
    if reason is not None and reason not in [r.value for r in StopReason.lasting()]:
        raise ValueError(f"state.stop_reason cannot be {_shown(reason)}")
    return {**saved, "phase": Phase(saved["phase"]), "stop_reason": None if reason is None else StopReason(reason)}


def _measured(trainer: BilevelTrainer, saved: Any, named: Mapping[str, jt.Var]) -> dict[str, jt.Var]:
    if not _mapping(saved, "measured"):
        return {}
    moving = {id(v) for v in (*trainer.ll_var, *trainer.ul_var)}
    live = {name: v for name, v in named.items() if id(v) in moving}
    _require(saved, list(live), "measured")
    return {name: variable(saved[name], v, f"measured.{name}") for name, v in live.items()}


def _auxiliary(trainer: BilevelTrainer, saved: Any) -> dict[str, list[jt.Var]]:
    method = trainer.current_run.method
    kept, names = method.keeps, list(_mapping(saved, "auxiliary"))
    if kept is None:  # a method of the user's, which knows
        return {name: _vars(arrays, None, f"auxiliary.{name}") for name, arrays in saved.items()}
    like = {name: method.kept_like(name) for name in names}
    if names and (None in like.values() or not set(kept) <= set(names)):
        raise ValueError(f"auxiliary has {_shown(names)}, where there can be {', '.join(kept) or 'nothing'}")
    return {name: _vars(arrays, like[name], f"auxiliary.{name}") for name, arrays in saved.items()}


def _sections(trainer: BilevelTrainer, saved: Any) -> dict[str, dict[str, Any]]:
    """The sections of ``solver_config`` with what was saved, as the operators' own checks allow it."""
    merged = copy.deepcopy(trainer.solver_config)
    for name, section in _mapping(saved, "solver_config").items():
        taken = {k: v for k, v in _mapping(section, f"solver_config.{name}").items() if (name, k) not in OF_MEMORY}
        for key, value in taken.items():
            live = getattr(registry.options(trainer.solver_config, name), key, None)
            if live is not None and value is not None and not same_kind(value, live):
                raise ValueError(f"solver_config.{name}.{key} cannot be {_shown(value)}: it is {live!r} here")
        merged.setdefault(name, {}).update(taken)
    registry.check_sections(merged)
    chain_arguments.chain_options(trainer.current_run.problem.plan, merged, trainer.lower_iters)
    return merged


def _loss_scale(trainer: BilevelTrainer, saved: Any) -> tuple[float, int]:
    if trainer.current_run.loss_scale is None:
        return 1.0, 0
    _require(saved, ("value", "good_steps"), "loss_scale")
    value = saved["value"]
    if type(value) not in (int, float) or not 0.0 < value < math.inf:
        raise ValueError(f"loss_scale.value must be positive and finite, got {_shown(value)}")
    if not is_count(saved["good_steps"]):
        raise ValueError(f"loss_scale.good_steps must be a count, got {_shown(saved['good_steps'])}")
    return float(value), saved["good_steps"]


def _positions(saved: Any) -> None:
    if saved is None:
        return
    for name, position in _mapping(saved, "loaders").items():
        if name not in ("ll", "ul", "val"):
            raise ValueError(f"loaders has {name!r}")
        check_position(position, f"loaders.{name}")
    if not {"ll", "ul"} <= set(saved):
        raise ValueError("loaders must have ll and ul")


def _callbacks(trainer: BilevelTrainer, saved: Any) -> None:
    states = _mapping(saved, "callbacks")
    for key, state in states.items():
        _mapping(state, f"callbacks.{key}")
    for key, callback in trainer.callbacks.by_key().items():
        if key in states:
            callback.check_state_dict(trainer, states[key])


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be an object, got {_shown(value)}")
    return value


def _require(value: Any, keys: Sequence[str], name: str) -> None:
    wrong = set(_mapping(value, name)) ^ set(keys)
    if wrong:
        raise ValueError(f"{name} must have exactly {', '.join(keys)}; missing or unknown: {_shown(sorted(wrong))}")


def _array(value: Any, name: str) -> np.ndarray:
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{name} must be an array, got {_shown(value)}")
    return value


def variable(value: Any, live: jt.Var, name: str) -> jt.Var:
    """An array of exactly the live Var's shape and dtype, as a Var."""
    array, dtype = _array(value, name), live.numpy().dtype
    if list(array.shape) != list(live.shape) or array.dtype != dtype:
        raise ValueError(f"{name} has shape {array.shape} and dtype {array.dtype}, not {tuple(live.shape)} and {dtype}")
    return as_var(array)


def _vars(value: Any, live: Sequence[jt.Var] | None, name: str) -> list[jt.Var]:
    if not isinstance(value, list) or (live is not None and len(value) != len(live)):
        raise ValueError(f"{name} must be a list with one array for each variable")
    if live is not None:
        return [variable(array, v, f"{name}[{i}]") for i, (array, v) in enumerate(zip(value, live, strict=True))]
    return [as_var(_float_array(array, f"{name}[{i}]")) for i, array in enumerate(value)]


def _float_arrays(value: Any, live: Sequence[jt.Var], name: str) -> None:
    if not isinstance(value, list) or len(value) != len(live):
        raise ValueError(f"{name} must be a list with {len(live)} arrays")
    for i, (array, v) in enumerate(zip(value, live, strict=True)):
        if _float_array(array, f"{name}[{i}]").shape != tuple(v.shape):
            raise ValueError(f"{name}[{i}] has shape {array.shape}, not {tuple(v.shape)}")


def _float_array(value: Any, name: str) -> np.ndarray:
    if str(_array(value, name).dtype) not in ("float16", "float32", "float64"):
        raise ValueError(f"{name} has dtype {value.dtype}, where floating-point numbers belong")
    return value


def as_var(array: np.ndarray) -> jt.Var:
    """A Var of the array's own dtype; ``jt.array`` alone would turn 64 bits into 32."""
    return jt.array(array, dtype=str(array.dtype)).sync()


def _shown(value: Any) -> str:
    """A value in a message, however long it is."""
    text = f"an array of shape {value.shape}" if isinstance(value, np.ndarray) else repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
