"""What a checkpoint holds of a trainer, and how the trainer takes it back."""

from __future__ import annotations

from collections.abc import Mapping
import logging
import os
import random
import re
from typing import TYPE_CHECKING, Any

from jboat.trainers import archive
from jboat.trainers.random_stream import packed_states, unpacked_states
from jboat.trainers.trainer_state import StopReason
import jittor as jt
import numpy as np

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer

logger = logging.getLogger("jboat")

_NOT_COMPARED = ("device",)


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names the file and says why."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint's file is missing, damaged or unreadable."""


def save(trainer: BilevelTrainer, path: str | os.PathLike[str], *, measured: bool = False) -> None:
    """Write everything that a run needs to go on.

    Args:
        trainer: whose state to write.
        path: the file.
        measured: write, besides, the variables at which the step's own metrics were measured, if the trainer has them.

    Raises:
        TypeError: if a callback's state holds something other than numbers, strings and arrays.
        OSError: if the file cannot be written.
    """
    tree = snapshot(trainer)
    if measured and trainer.measured is not None:
        moved = {id(variable): value for variable, value in trainer.measured}
        tree["measured"] = {name: moved[id(v)].numpy() for name, v in variables(trainer).items() if id(v) in moved}
    archive.write(path, tree)


def load(trainer: BilevelTrainer, path: str | os.PathLike[str], *, measured: bool = True) -> None:
    """Take a checkpoint back; nothing of the trainer changes where it cannot be used.

    Args:
        trainer: what takes it.
        path: the file.
        measured: take the variables at which the step's own metrics were measured, where the file has them; else those
            after the step.

    Raises:
        CheckpointError: if the file is missing, damaged, of a newer format, or of another configuration.
    """
    try:
        tree = archive.read(path)
    except archive.ArchiveError as error:
        raise DamagedCheckpointError(str(error)) from error
    try:
        _require_same_run(trainer, tree, path)
        restore(trainer, _at_measurement(tree) if measured else tree)
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise CheckpointError(f"{path} does not fit this trainer: {type(error).__name__}: {error}") from error


def _at_measurement(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tree with the variables at which the step's own metrics were measured, if it has them."""
    moved = tree.get("measured", {})
    shapes = {name: array.shape for name, array in tree["variables"].items()}
    strange = sorted(name for name, array in moved.items() if shapes.get(name) != array.shape)
    if strange:
        raise ValueError(f"'measured' holds {', '.join(strange)}, unlike 'variables'")
    return {**tree, "variables": {**tree["variables"], **moved}}


def variables(trainer: BilevelTrainer) -> dict[str, jt.Var]:
    """Every Var of both models and both variable lists, once, by name."""
    named: dict[str, jt.Var] = {}
    for level, model in (("ll_model", trainer.ll_model), ("ul_model", trainer.ul_model)):
        named.update((f"{level}.{name}", p) for name, p in model.named_parameters())
    for level, listed in (("ll_var", trainer.ll_var), ("ul_var", trainer.ul_var)):
        known = {id(v) for v in named.values()}
        named.update((f"{level}.{i}", v) for i, v in enumerate(listed) if id(v) not in known)
    return named


def snapshot(trainer: BilevelTrainer) -> dict[str, Any]:
    """The trainer as a tree of arrays and plain values."""
    state = trainer.state
    return {
        "configuration": trainer.configuration(),
        "variables": {name: v.numpy() for name, v in variables(trainer).items()},
        "ll_optimizer": optimizer_state(trainer.ll_optimizer),
        "ul_optimizer": optimizer_state(trainer.ul_optimizer),
        "initialization": None if trainer.initialization is None else [v.numpy() for v in trainer.initialization],
        "auxiliary": {name: [v.numpy() for v in values] for name, values in trainer.auxiliary.items()},
        "solver_config": trainer.solver_config,
        "random_seed": trainer.random_seed,
        "generators": packed_states(random.getstate(), np.random.get_state()),
        "state": {
            "step": state.step,
            "epoch": state.epoch,
            "phase": state.phase,
            "metrics": state.metrics,
            "validation": state.validation,
            "elapsed": state.elapsed,
            "first_step": state.first_step,
            "first_epoch": state.first_epoch,
            "stop_reason": state.stop_reason.value if state.stop_reason in StopReason.lasting() else None,
        },
        "history": trainer.history.state_dict(),
        "callbacks": {callback.key: callback.state_dict() for callback in trainer.callbacks.callbacks},
        "loaders": trainer.loader_positions(),
    }


def restore(trainer: BilevelTrainer, tree: Mapping[str, Any]) -> None:
    """Put a tree back into the trainer."""
    named = variables(trainer)
    for name, v in named.items():
        v.update(as_var(tree["variables"][name]))
    jt.sync(list(named.values()))
    restore_optimizer(trainer.ll_optimizer, tree["ll_optimizer"])
    restore_optimizer(trainer.ul_optimizer, tree["ul_optimizer"])
    saved = tree["initialization"]
    trainer.initialization = None if saved is None else [as_var(array) for array in saved]
    trainer.auxiliary = {name: [as_var(array) for array in arrays] for name, arrays in tree["auxiliary"].items()}
    for name, section in tree["solver_config"].items():
        trainer.solver_config.setdefault(name, {}).update(section)
    trainer.random_seed = tree["random_seed"]
    python, numpy = unpacked_states(tree["generators"])
    random.setstate(python)
    np.random.set_state(numpy)
    state, values = trainer.state, dict(tree["state"])
    reason = values.pop("stop_reason")
    for name, value in values.items():
        setattr(state, name, value)
    state.stop_reason = None if reason is None else StopReason(reason)
    trainer.history.load_state_dict(tree["history"])
    trainer.resume_positions(tree["loaders"])
    for callback in trainer.callbacks.callbacks:
        if callback.key in tree["callbacks"]:
            callback.load_state_dict(tree["callbacks"][callback.key])
        else:
            logger.warning("the checkpoint has no state of %s, which starts afresh", callback.key)


def as_var(array: np.ndarray) -> jt.Var:
    """A Var of the array's own dtype; ``jt.array`` alone would turn 64 bits into 32."""
    return jt.array(array, dtype=str(array.dtype)).sync()


def optimizer_state(optimizer: jt.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's plain attributes and, for each parameter group, its own values and lists of arrays."""
    groups = []
    for group in optimizer.param_groups:
        entries = {name: value for name, value in group.items() if name != "params"}
        lists = {name: [v.numpy() for v in value] for name, value in entries.items() if _is_var_list(value)}
        groups.append({"values": {n: v for n, v in entries.items() if _is_plain(v)}, "lists": lists})
    plain = {n: v for n, v in vars(optimizer).items() if not n.startswith("_") and _is_plain(v)}
    return {"values": plain, "groups": groups}


def restore_optimizer(optimizer: jt.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Take back what :func:`optimizer_state` gave."""
    for name, value in state["values"].items():
        setattr(optimizer, name, tuple(value) if isinstance(value, list) else value)
    if len(state["groups"]) != len(optimizer.param_groups):
        raise ValueError(f"{len(state['groups'])} parameter groups were saved, there are {len(optimizer.param_groups)}")
    for group, saved in zip(optimizer.param_groups, state["groups"], strict=True):
        for name, value in saved["values"].items():
            group[name] = tuple(value) if isinstance(value, list) else value
        for name, arrays in saved["lists"].items():
            group[name] = [as_var(array).stop_grad() for array in arrays]


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(entry) for entry in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _is_var_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, jt.Var) for v in value)


def _require_same_run(trainer: BilevelTrainer, tree: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    mine, theirs = _flat(trainer.configuration()), _flat(tree["configuration"])
    shapes = {name: list(v.shape) for name, v in variables(trainer).items()}
    saved_shapes = {name: list(array.shape) for name, array in tree["variables"].items()}
    differences = _differences(mine, theirs) + _differences(shapes, saved_shapes)
    if differences:
        raise CheckpointError(f"{path} was saved by a run of another configuration: " + "; ".join(differences))


def _differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} was {theirs.get(name, 'absent')!r} and is {mine.get(name, 'absent')!r}"
        for name in sorted({*mine, *theirs})
        if name not in _NOT_COMPARED
        and mine.get(name, _ABSENT) != theirs.get(name, _ABSENT)
        and not _one_has_no_such_part(name, mine, theirs)
    ]


_ABSENT = object()
_PART = re.compile(r"(ll|ul)_optimizer\.groups\.|schedules\.[^.]+\.")
"""What is compared where both have it: a schedule may come or go between two runs, and older files have no groups."""


def _one_has_no_such_part(name: str, *sides: Mapping[str, Any]) -> bool:
    part = _PART.match(name)
    return part is not None and not all(any(n.startswith(part[0]) for n in side) for side in sides)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict of dotted names; tuples as lists, as JSON has them."""
    if isinstance(value, Mapping):
        flat: dict[str, Any] = {}
        for key, entry in value.items():
            flat.update(_flat(entry, f"{prefix}.{key}" if prefix else str(key)))
        return flat
    return {prefix: list(value) if isinstance(value, tuple) else value}
