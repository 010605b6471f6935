"""Translate the configuration of BOAT (boat-jit and boat-torch 1.1) into jboat's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from jboat import registry
import jboat.fo_ol
import jboat.gm_ol
import jboat.na_ol  # noqa: F401  (registers the operators)

_MARKS = ("lower_level_opt", "lower_level_model", "accumulate_grad", "copy_last_param", "return_grad", "loss_log_path")
_OBJECTS = {
    "lower_level_model": "ll_model",
    "upper_level_model": "ul_model",
    "lower_level_opt": "ll_optimizer",
    "upper_level_opt": "ul_optimizer",
    "lower_level_var": "ll_var",
    "upper_level_var": "ul_var",
}
_LOSSES = {"lower_level_loss": "ll_objective", "upper_level_loss": "ul_objective", "gda_loss": "gda_loss"}
_DROPPED = {
    "return_grad": "use BilevelTrainer.hypergradient() for gradients",
    "loss_log_path": "use CSVLogger or JSONLLogger",
    "device": "jboat's device is 'auto', 'cpu' or 'cuda'",
    "fogm_batch_input": "lists of batches are recognised",
}
_MOVES_AHEAD = "(update_y_ahead) it has no counterpart: y and x move from the same point"
_OPTIONS_GONE = {
    ("PGDO", "updata_y_ahead"): _MOVES_AHEAD,
    ("PGDO", "update_y_ahead"): _MOVES_AHEAD,
    ("VFO", "eta"): "the step size of x is ul_optimizer's learning rate",
    ("MESO", "y_hat_lr"): "theta moves by plain gradient steps of size 'eta'",
    ("DM", "auxiliary_v"): "the multiplier is kept by the trainer and its checkpoints",
    ("DM", "auxiliary_v_opt"): "the multiplier is kept by the trainer and its checkpoints",
}
_VALUES = {("PGDO", "penalty", "difference"): "value"}


def recognised(data: Mapping[str, Any]) -> bool:
    """Whether a configuration is one of BOAT."""
    return any(key in data for key in _MARKS) or any(key in data for key in _LOSSES if key != "gda_loss")


def translated(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The same in jboat's terms, and a note on every key that changed its name or its meaning.

    Args:
        data: ``boat_config.json``, merged with ``loss_config.json`` where there is one. Keys that hold None, as the
            objects do in a file, are left out.
    """
    notes: list[str] = []
    sections: dict[str, dict[str, Any]] = {}
    result: dict[str, Any] = {"solver_config": sections}
    operators = registry.operators()
    used = {*(data.get("gm_op") or ()), *(data.get("na_op") or ()), data.get("fo_op")}
    if used & {"NS"}:
        used.add("CG")
    for key, value in data.items():
        if value is None:
            continue
        if key in _OBJECTS:
            result[_OBJECTS[key]] = value
        elif key in _LOSSES:
            params = value.get("params") if isinstance(value, Mapping) else None
            name = _reference(value)
            result[_LOSSES[key]] = {"function": name, "params": dict(params)} if params else name
        elif key in operators and isinstance(value, Mapping):
            if key in used:
                sections[key] = _section(key, value, notes)
        elif key == "accumulate_grad":
            if value:
                notes.append("accumulate_grad: a loader that yields lists of batches averages over each list")
        elif key == "copy_last_param":
            result["warm_start"] = bool(value)
            notes.append(f"copy_last_param = {value} became warm_start; ll_model holds y_K after a step in any case")
        elif key in _DROPPED:
            notes.append(f"{key} is ignored: {_DROPPED[key]}")
        else:
            result[key] = value
    if not any(section for section in sections.values()):
        result.pop("solver_config")
    return result, notes


def _section(name: str, section: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    options = registry.operators()[name].options
    valid = {field.name for field in fields(options)} if options is not None else set()
    kept = {}
    for key, value in section.items():
        if (name, key) in _OPTIONS_GONE:
            notes.append(f"{name}.{key} is ignored: {_OPTIONS_GONE[name, key]}")
        elif key in valid:
            value = float(value) if isinstance(value, str) and _is_number(value) else value
            kept[key] = _VALUES.get((name, key, value), value) if isinstance(value, str) else value
            if kept[key] != value:
                notes.append(f"{name}.{key} = {value!r} is called {kept[key]!r}")
        else:
            notes.append(f"{name}.{key} is ignored: {name} has no such option.{registry.nearest(key, valid)}")
    return kept


def _reference(value: Any) -> Any:
    """``package.module.name`` as jboat writes it, ``package.module:name``."""
    name = value.get("function") if isinstance(value, Mapping) else value
    if isinstance(name, str) and ":" not in name and "." in name:
        module, _, function = name.rpartition(".")
        return f"{module}:{function}"
    return name


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
