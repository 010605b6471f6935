"""Translate the configuration of BOAT into jboat's.

BOAT's files of every version are met: boat-jit and boat-torch 1.1, and what their repository held before, when keys and
methods had other names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from jboat import registry
import jboat.fo_ol
import jboat.gm_ol
import jboat.na_ol
import jboat.sl_ol  # noqa: F401  (registers the operators)
from jboat.spelling import nearest

_OBJECTS = {
    "lower_level_model": "ll_model",
    "upper_level_model": "ul_model",
    "lower_level_opt": "ll_optimizer",
    "upper_level_opt": "ul_optimizer",
    "lower_level_var": "ll_var",
    "upper_level_var": "ul_var",
}
_LOSSES = {"lower_level_loss": "ll_objective", "upper_level_loss": "ul_objective", "gda_loss": "gda_loss"}
_OLDER_KEYS = {
    "dynamic_op": "gm_op",
    "dynamic_method": "gm_op",
    "hyper_op": "na_op",
    "hyper_method": "na_op",
    "fo_gm": "fo_op",
    "ll_opt": "lower_level_opt",
    "ul_opt": "upper_level_opt",
    "fogm_batch_input": "fo_ol_batch_input",
    "fogo_batch_input": "fo_ol_batch_input",
}
_OLDER_OPERATORS = {"VSM": "VSO", "PGDM": "PGDO", "VFM": "VFO", "MESM": "MESO", "MABT": "GAFFO"}
_DROPPED = {
    "return_grad": "use BilevelTrainer.hypergradient() for gradients",
    "loss_log_path": "use CSVLogger or JSONLLogger",
    "fo_ol_batch_input": "lists of batches are recognised",
}
_SWITCHES = ("accumulate_grad", "copy_last_param")
_MARKS = {*_OBJECTS, *_OLDER_KEYS, *_OLDER_OPERATORS, *_DROPPED, *_SWITCHES, "lower_level_loss", "upper_level_loss"}
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
    return any(key in _MARKS for key in data)


def translated(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The same in jboat's terms, and a note on every key that changed its name or its meaning.

    Args:
        data: ``boat_config.json``, merged with ``loss_config.json`` where there is one. Keys that hold None, as the
            objects do in a file, are left out.
    """
    notes: list[str] = []
    data = _in_present_names(data, notes)
    used = {name for key in ("gm_op", "na_op", "fo_op", "sl_op") for name in _names(data.get(key))}
    plan = registry.plan(_names(data.get("gm_op")), _names(data.get("na_op")))
    replaced = data.get("fo_op") is not None or data.get("sl_op") is not None
    single_step = replaced or not plan.has_lower_loop
    if not used:
        notes.append("gm_op, na_op and fo_op name no operator: NGD and RAD are taken")
    used |= {name for operator in plan.operators for name in operator.sections}
    sections: dict[str, dict[str, Any]] = {}
    result: dict[str, Any] = {}
    for key, value in data.items():
        if value is None:
            continue
        if key in _OBJECTS:
            result[_OBJECTS[key]] = value
        elif key in _LOSSES:
            if key != "gda_loss" or plan.aggregator is not None:
                result[_LOSSES[key]] = _loss(value)
        elif key in registry.operators() and isinstance(value, Mapping):
            if key in used:
                sections[key] = _section(key, value, notes)
        elif key == "accumulate_grad":
            if value:
                notes.append("accumulate_grad: a loader that yields lists of batches averages over each list")
        elif key == "copy_last_param":
            if single_step:
                notes.append("copy_last_param is ignored: y moves on from where it is")
            else:
                result["warm_start"] = bool(value)
                notes.append(
                    f"copy_last_param = {value} became warm_start; ll_model holds y_K after a step in any case"
                )
        elif key in ("cuda", "device"):
            _choose_device(key, value, data, result, notes)
        elif key in _DROPPED:
            notes.append(f"{key} is ignored: {_DROPPED[key]}")
        else:
            result[key] = value
    if any(sections.values()):
        present = result.get("solver_config", {})
        result["solver_config"] = {**(present if isinstance(present, Mapping) else {}), **sections}
    return result, list(dict.fromkeys(notes))


def _in_present_names(data: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """The same with the names that BOAT's keys, sections and operators have today."""
    result: dict[str, Any] = {}
    for key, value in data.items():
        present = _OLDER_KEYS.get(key, key)
        if present != key:
            notes.append(f"{key} is called {present}")
        present = _OLDER_OPERATORS.get(present, present)
        if result.get(present) is None:  # a file may hold both, the older one empty
            result[present] = value
    for key in ("gm_op", "na_op", "fo_op", "sl_op"):
        if isinstance(result.get(key), str):
            result[key] = _present_operator(result[key], notes)
        elif isinstance(result.get(key), list):
            result[key] = [_present_operator(name, notes) for name in result[key]]
    return result


def _present_operator(name: Any, notes: list[str]) -> Any:
    if not isinstance(name, str):
        return name
    present = _OLDER_OPERATORS.get(name.upper(), name.upper())
    if present not in registry.operators():
        return name
    if present != name:
        notes.append(f"{name} is called {present}")
    return present


def _names(value: Any) -> list[str]:
    names = value if isinstance(value, list) else [value]
    return [name for name in names if isinstance(name, str)]


def _choose_device(key: str, value: Any, data: Mapping[str, Any], result: dict[str, Any], notes: list[str]) -> None:
    """BOAT's ``"cuda"`` takes a GPU where there is one, and so do its files; the older switch yields to ``device``."""
    if key == "cuda" and data.get("device") is not None:
        notes.append("cuda is ignored: device says the same")
        return
    wants_gpu = bool(value) if key == "cuda" else str(value).startswith("cuda")
    chosen = "auto" if wants_gpu else "cpu" if key == "cuda" else value
    result["device"] = chosen
    if key == "cuda" or chosen != value:
        notes.append(f"{key} = {value!r} became device = {chosen!r}" + (", CUDA where Jittor has it" * wants_gpu))


def _loss(value: Any) -> Any:
    """A function's name, or a table with its name and what is bound to it, as jboat writes them."""
    params = value.get("params") if isinstance(value, Mapping) else None
    name = value.get("function") if isinstance(value, Mapping) else value
    if isinstance(name, str) and ":" not in name and "." in name:
        module, _, function = name.rpartition(".")
        name = f"{module}:{function}"
    return {"function": name, "params": params} if params else name


def _section(name: str, section: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    options = registry.operators()[name].options
    valid = {field.name: field.default for field in fields(options)} if options is not None else {}
    kept = {}
    for key, value in section.items():
        if (name, key) in _OPTIONS_GONE:
            notes.append(f"{name}.{key} is ignored: {_OPTIONS_GONE[name, key]}")
        elif key not in valid:
            notes.append(f"{name}.{key} is ignored: {name} has no such option.{nearest(key, valid)}")
        elif value is not None:
            kept[key] = _option(name, key, value, valid[key], notes)
    return kept


def _option(name: str, key: str, value: Any, default: Any, notes: list[str]) -> Any:
    if isinstance(value, str):
        if _is_number(value):
            return float(value)
        if (name, key, value) in _VALUES:
            present = _VALUES[name, key, value]
            notes.append(f"{name}.{key} = {value!r} is called {present!r}")
            return present
    if isinstance(value, bool) and isinstance(default, float):
        notes.append(f"{name}.{key} = {value} counts as {float(value)}")
        return float(value)
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
