"""What can be wrong with the plain values of a configuration: switches, numbers, operators and their options."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
import os
from typing import Any

from jboat import registry
from jboat.callbacks import argument_checks
from jboat.spelling import nearest
from jboat.trainers import arguments, chain_arguments, half_precision
from jboat.trainers import device as devices

PLAIN = {
    "gm_op": list,
    "na_op": list,
    "fo_op": str,
    "sl_op": str,
    "lower_iters": int,
    "warm_start": bool,
    "lower_batches": str,
    "ll_optimizer_state": str,
    "lower_micro_batches": int,
    "accumulate": int,
    "tasks_together": object,
    "logger_dir": str,
    "seed": int,
    "device": str,
    "deterministic": bool,
    "precision": str,
    "loss_scale": float,
}
FIT = (
    "max_epochs",
    "max_steps",
    "max_time",
    "val_every",
    "resume_from",
    "check_second_order",
    "limit_batches",
    "fast_dev_run",
    "progress",
)
TABLES = ("solver_config", "metrics", "ll_hyperparameters", "fit")


def table(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A table of a configuration; an empty one where there is none, or something else."""
    value = config.get(key, {})
    return dict(value) if isinstance(value, Mapping) else {}


def errors(config: Mapping[str, Any]) -> list[str]:
    """Everything that is wrong with the plain values, a sentence each, as far as they can be judged by themselves."""
    found = []
    for key, kind in PLAIN.items():
        value = config.get(key)
        kinds = (int, float) if kind is float else kind
        if value is not None and (not isinstance(value, kinds) or (kind in (int, float) and isinstance(value, bool))):
            found.append(f"{key!r} must be {_described(kind)}, got {value!r}")
        elif value is not None and key in _CHECKS:
            found += _complaints(_CHECKS[key], value)
    for key in TABLES:
        if not isinstance(config.get(key, {}), Mapping):
            found.append(f"{key!r} must be a table, got {config[key]!r}")
    return found + _section_errors(config) + _chain_errors(config) + _fit_errors(config)


def _complaints(check: Callable[..., Any], *arguments: Any, **named: Any) -> list[str]:
    try:
        check(*arguments, **named)
    except (TypeError, ValueError) as error:
        return [str(error)]
    return []


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "lower_iters": lambda value: argument_checks.count("lower_iters", value),
    "lower_micro_batches": lambda value: argument_checks.count("lower_micro_batches", value),
    "accumulate": lambda value: argument_checks.count("accumulate", value),
    "tasks_together": arguments.tasks_together,
    "lower_batches": lambda value: arguments.choice("lower_batches", value, ("shared", "fresh")),
    "ll_optimizer_state": lambda value: arguments.choice("ll_optimizer_state", value, ("reset", "carry")),
    "device": devices.checked,
    "precision": half_precision.word,
    "logger_dir": lambda value: _folder("logger_dir", value),
}


def _chain_errors(config: Mapping[str, Any]) -> list[str]:
    chains = [config.get("gm_op") or ("NGD",), config.get("na_op") or ("RAD",)]
    methods = [config.get("fo_op"), config.get("sl_op")]
    if methods != [None, None]:
        return _complaints(chain_arguments.method_in_place_of_chains, *methods, *chains, config.get("accumulate") or 1)
    try:
        plan = registry.plan(*registry.order_chain(*chains))
    except (TypeError, ValueError) as error:
        return [str(error)]
    lower_iters, sections = config.get("lower_iters", 10), table(config, "solver_config")
    if not isinstance(lower_iters, int) or _section_errors(config):
        return []
    return _complaints(chain_arguments.chain_options, plan, sections, lower_iters)


def _section_errors(config: Mapping[str, Any]) -> list[str]:
    sections = table(config, "solver_config")
    return [error for name in sections for error in _complaints(registry.check_sections, {name: sections[name]})]


def _fit_errors(config: Mapping[str, Any]) -> list[str]:
    given = table(config, "fit")
    found = [f"'fit' has no key {key!r}.{nearest(key, FIT)}" for key in given if key not in FIT]
    limits = {key: given.get(key) for key in ("max_epochs", "max_steps", "max_time", "val_every")}
    found += [f"fit.{error}" for error in _complaints(arguments.limits, **limits, val_loader=config.get("val_loader"))]
    for key, kind in (("resume_from", str), ("check_second_order", bool)):
        if given.get(key) is not None and not isinstance(given[key], kind):
            found.append(f"'fit.{key}' must be {_described(kind)}, got {given[key]!r}")
    if given.get("limit_batches") is not None:
        found += [f"fit.{e}" for e in _complaints(argument_checks.count, "limit_batches", given["limit_batches"])]
    found += [f"fit.{error}" for error in _complaints(arguments.dev_steps, given.get("fast_dev_run"))]
    source = given.get("resume_from")
    if source in ("last", "best") and not _saves(config.get("callbacks")):
        found.append(f"'fit.resume_from' = {source!r} needs a ModelCheckpoint among the callbacks")
    elif isinstance(source, str) and source not in ("last", "best") and not os.path.isfile(source):
        found.append(f"'fit.resume_from': there is no file {source!r}")
    return found


def _folder(name: str, value: str) -> None:
    if os.path.exists(value) and not os.path.isdir(value):
        raise ValueError(f"{name} must be a folder, and {value!r} is a file")


def _saves(callbacks: Any) -> bool:
    """Whether a ModelCheckpoint may be among the callbacks; a class of the user's own may be one."""
    names: Iterable[Any] = (
        (c.get("class") for c in callbacks if isinstance(c, Mapping)) if isinstance(callbacks, list) else ()
    )
    return any(name == "ModelCheckpoint" or ":" in str(name) for name in names)


def _described(kind: type) -> str:
    return {list: "a list", str: "a string", int: "an integer", float: "a number", bool: "true or false"}[kind]
