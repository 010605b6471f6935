"""What a checkpoint holds of a trainer, and how the trainer takes it back."""

from __future__ import annotations

from collections.abc import Mapping
import contextlib
import logging
import os
from pathlib import Path
import random
import re
from typing import TYPE_CHECKING, Any

from jboat.trainers.data.random_stream import packed_states
from jboat.trainers.persistence import archive, checkpoint_contents
from jboat.trainers.persistence.checkpoint_contents import Contents, as_var
from jboat.trainers.step_metrics import StepMetrics
from jboat.trainers.trainer_state import StopReason
import jittor as jt
import numpy as np

if TYPE_CHECKING:
    from jboat.callbacks.callback import Callback
    from jboat.trainers.bilevel_trainer import BilevelTrainer

logger = logging.getLogger("jboat")

_NOT_COMPARED = ("device",)
_OF_MEMORY = (
    "tasks_together",
    "lower_micro_batches",
    *(f"solver_config.{section}.{option}" for section, option in checkpoint_contents.OF_MEMORY),
)
"""What trades memory for time alone, so that a run that ran out of it goes on with another."""


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
    if measured and trainer.current_run.measured is not None:
        moved = {id(variable): value for variable, value in trainer.current_run.measured}
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
        CheckpointError: if the file is missing, damaged, of a newer format, of another configuration, or holds a value
            that this trainer cannot have.
    """
    try:
        tree = archive.read(path)
    except archive.ArchiveError as error:
        raise DamagedCheckpointError(str(error)) from error
    named = variables(trainer)
    try:
        checkpoint_contents.require_keys(tree)
        _require_same_run(trainer, tree, path)
        contents = checkpoint_contents.checked(trainer, tree, named)
        _load_callbacks(trainer, contents.tree["callbacks"])
    except CheckpointError:
        raise
    except Exception as error:  # whatever a stranger's values lead to
        what = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{path} does not fit this trainer: {what}") from error
    _restore(trainer, contents, named, measured=measured)
    trainer.current_run.loaded_from = Path(path)


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
    state, run = trainer.state, trainer.current_run
    initial = run.initialization
    return {
        "configuration": trainer.configuration(),
        "variables": {name: v.numpy() for name, v in variables(trainer).items()},
        "ll_optimizer": optimizer_state(trainer.ll_optimizer),
        "ul_optimizer": optimizer_state(trainer.ul_optimizer),
        "initialization": None if initial is None else [v.numpy() for v in initial],
        "auxiliary": {name: [v.numpy() for v in values] for name, values in run.auxiliary.items()},
        "solver_config": trainer.solver_config,
        "random_seed": run.random_seed,
        "generators": packed_states(random.getstate(), np.random.get_state()),
        "state": {
            "step": state.step,
            "epoch": state.epoch,
            "phase": state.phase.value,
            "metrics": state.metrics,
            "validation": state.validation,
            "elapsed": state.elapsed,
            "first_step": state.first_step,
            "first_epoch": state.first_epoch,
            "stop_reason": state.stop_reason.value if state.stop_reason in StopReason.lasting() else None,
        },
        "history": trainer.history.state_dict(),
        "callbacks": {key: callback.state_dict() for key, callback in trainer.callbacks.by_key().items()},
        "loaders": run.resumption.positions(),
        **({} if run.loss_scale is None else {"loss_scale": run.loss_scale.state()}),
    }


def _restore(trainer: BilevelTrainer, contents: Contents, named: Mapping[str, jt.Var], *, measured: bool) -> None:
    """Put values that were looked at into the trainer."""
    values = {**contents.variables, **contents.measured} if measured else contents.variables
    for name, v in named.items():
        v.update(values[name])
    jt.sync(list(named.values()))
    _restore_optimizer(trainer.ll_optimizer, contents.tree["ll_optimizer"])
    _restore_optimizer(trainer.ul_optimizer, contents.tree["ul_optimizer"])
    trainer.current_run.initialization = contents.initialization
    trainer.current_run.auxiliary = contents.auxiliary
    if trainer.current_run.loss_scale is not None:
        trainer.current_run.loss_scale.restore(*contents.loss_scale)
    for name, section in contents.sections.items():
        trainer.solver_config.setdefault(name, {}).update(section)
    trainer.current_run.random_seed = contents.tree["random_seed"]
    python, numpy = contents.generators
    random.setstate(python)
    np.random.set_state(numpy)
    for name, value in contents.state.items():
        setattr(trainer.state, name, value)
    trainer.state.metrics = StepMetrics(trainer.state.metrics)
    trainer.history.rows = contents.history.rows
    trainer.current_run.resumption.keep(contents.tree["loaders"], contents.tree["callbacks"])


def _load_callbacks(trainer: BilevelTrainer, states: Mapping[str, Any]) -> None:
    """Give every callback its state; where one refuses, all get theirs back."""
    done: list[tuple[Callback, dict[str, Any]]] = []
    try:
        for key, callback in trainer.callbacks.by_key().items():
            if key in states:
                done.append((callback, callback.state_dict()))
                callback.load_state_dict(states[key])
    except Exception:
        for callback, before in done:
            with contextlib.suppress(Exception):  # it may refuse that too; the first refusal is the one to tell
                callback.load_state_dict(before)
        raise
    for key in trainer.callbacks.by_key():
        if key not in states:
            logger.warning("the checkpoint has no state of %s, which starts afresh", key)


def optimizer_state(optimizer: jt.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's plain attributes and, for each parameter group, its own values and lists of arrays."""
    groups = [
        {
            "values": checkpoint_contents.plain_entries(group),
            "lists": {n: [v.numpy() for v in vs] for n, vs in checkpoint_contents.var_lists(group).items()},
        }
        for group in optimizer.param_groups
    ]
    return {"values": checkpoint_contents.plain_values(optimizer), "groups": groups}


def _restore_optimizer(optimizer: jt.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Take back what :func:`optimizer_state` gave."""
    for name, value in state["values"].items():
        setattr(optimizer, name, tuple(value) if isinstance(value, list) else value)
    for group, saved in zip(optimizer.param_groups, state["groups"], strict=True):
        for name, value in saved["values"].items():
            group[name] = tuple(value) if isinstance(value, list) else value
        for name, arrays in saved["lists"].items():
            group[name] = [as_var(array).stop_grad() for array in arrays]


def _require_same_run(trainer: BilevelTrainer, tree: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    shapes = {name: list(v.shape) for name, v in variables(trainer).items()}
    saved_shapes = {name: list(array.shape) for name, array in tree["variables"].items()}
    of_shapes = _differences(shapes, saved_shapes)
    differences = configuration_differences(trainer, tree) + of_shapes
    mine, theirs = ({n: v for n, v in flat(c).items() if n in _OF_MEMORY} for c in _configurations(trainer, tree))
    if not differences and (of_memory := _differences(mine, theirs)):
        logger.info("%s goes on with other options of memory: %s", path, "; ".join(of_memory))
    if differences:
        hint = "" if of_shapes else ". load_checkpoint(path, what='models') takes the models alone"
        raise CheckpointError(f"{path} was saved by a run of another configuration: {'; '.join(differences)}{hint}")


def configuration_differences(trainer: BilevelTrainer, tree: Mapping[str, Any]) -> list[str]:
    """What the run that wrote a checkpoint had set otherwise, a sentence each."""
    mine, theirs = ({n: v for n, v in flat(c).items() if n not in _OF_MEMORY} for c in _configurations(trainer, tree))
    return _differences(mine, theirs)


def _configurations(trainer: BilevelTrainer, tree: Mapping[str, Any]) -> tuple[Any, Any]:
    return trainer.configuration(), tree["configuration"]


def _differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} was {theirs.get(name, 'absent')!r} and is {mine.get(name, 'absent')!r}"
        for name in sorted({*mine, *theirs})
        if name not in _NOT_COMPARED
        and not _equal(mine.get(name, _ABSENT), theirs.get(name, _ABSENT))
        and not _one_has_no_such_part(name, mine, theirs)
    ]


_ABSENT = object()
_PART = re.compile(r"(ll|ul)_optimizer\.groups\.|schedules\.[^.]+\.")
"""What is compared where both have it: a schedule may come or go between two runs, and older files have no groups."""


def _one_has_no_such_part(name: str, *sides: Mapping[str, Any]) -> bool:
    part = _PART.match(name)
    return part is not None and not all(any(n.startswith(part[0]) for n in side) for side in sides)


def _equal(mine: Any, theirs: Any) -> bool:
    """Whether two values are the same; True is not 1."""
    return isinstance(mine, bool) == isinstance(theirs, bool) and bool(mine == theirs)


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict of dotted names; tuples as lists, as JSON has them."""
    if isinstance(value, Mapping):
        entries: dict[str, Any] = {}
        for key, entry in value.items():
            entries.update(flat(entry, f"{prefix}.{key}" if prefix else str(key)))
        return entries
    return {prefix: list(value) if isinstance(value, tuple) else value}
