"""A trainer described by a JSON or TOML file.

Objects are named as ``package.module:name``; everything else is plain data. All errors of a configuration are found
before anything is built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
import functools
import importlib
import inspect
import json
import os
from pathlib import Path
import sys
from typing import TYPE_CHECKING, Any

from jboat import callbacks as callback_classes
from jboat import registry
from jboat.callbacks.callback import Callback
from jboat.trainers import boat_configuration
import jittor as jt

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer

MODELS = ("ll_model", "ul_model")
FUNCTIONS = ("ll_objective", "ul_objective", "gda_loss")
BOUND = ("function", "params")
OPTIMIZERS = ("ll_optimizer", "ul_optimizer")
LOADERS = ("ll_loader", "ul_loader", "val_loader")
PLAIN = {
    "gm_op": list,
    "na_op": list,
    "fo_op": str,
    "lower_iters": int,
    "warm_start": bool,
    "lower_batches": str,
    "ll_optimizer_state": str,
    "accumulate": int,
    "logger_dir": str,
    "seed": int,
    "device": str,
    "deterministic": bool,
}
FIT = ("max_epochs", "max_steps", "max_time", "val_every", "resume_from", "check_second_order")
TABLES = ("solver_config", "metrics", "fit")
KEYS = (*MODELS, *FUNCTIONS, *OPTIMIZERS, *LOADERS, *PLAIN, *TABLES, "callbacks", "trainer")


class ConfigurationError(ValueError):
    """A configuration with errors.

    Attributes:
        errors: one sentence each.
    """

    def __init__(self, errors: Iterable[str]) -> None:
        self.errors = list(errors)
        super().__init__("; ".join(self.errors))


def read(source: str | os.PathLike[str] | Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A configuration as a dict, and notes on what was translated.

    Args:
        source: a dict, a ``.json`` or ``.toml`` file, or a folder with BOAT's ``boat_config.json`` and
            ``loss_config.json``. A configuration of BOAT is recognised and translated.

    Raises:
        ConfigurationError: if the file cannot be read.
    """
    if isinstance(source, Mapping):
        data = dict(source)
    else:
        path = Path(source)
        if path.is_dir():
            data = _parsed(path / "boat_config.json")
            losses = path / "loss_config.json"
            if losses.exists():
                data.update(_parsed(losses))
        else:
            data = _parsed(path)
    return boat_configuration.translated(data) if boat_configuration.recognised(data) else (data, [])


def _parsed(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise ConfigurationError([f"cannot read {path}: {error.strerror}"]) from error
    except ValueError as error:
        raise ConfigurationError(
            [f"{path} is no valid {path.suffix.lstrip('.').upper() or 'JSON'}: {error}"]
        ) from error
    if not isinstance(data, dict):
        raise ConfigurationError([f"{path} must hold a table of keys, got {type(data).__name__}"])
    return data


def with_settings(config: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """A copy with ``key=value`` settings; dots lead into tables, values are JSON or else strings.

    Raises:
        ConfigurationError: for a setting without ``=``, or one that leads into something that is no table.
    """
    result = json.loads(json.dumps(config))
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigurationError([f"--set needs key=value, got {setting!r}"])
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        *folders, last = key.strip().split(".")
        table = result
        for folder in folders:
            table = table.setdefault(folder, {})
            if not isinstance(table, dict):
                raise ConfigurationError([f"--set {setting}: {folder} is no table"])
        table[last] = value
    return dict(result)


def errors(config: Mapping[str, Any], given: Iterable[str] = (), *, loaders: bool = True) -> list[str]:
    """Everything that is wrong with a configuration, a sentence each.

    Args:
        config: what :func:`read` returned.
        given: the names of objects that are passed beside it.
        loaders: whether the loaders must be there.
    """
    found = []
    known = set(given)
    for key in config:
        if key not in KEYS:
            found.append(f"unknown key {key!r}.{registry.nearest(key, KEYS)}")
    custom = "trainer" in config
    needed = [*MODELS, *(() if custom else (*FUNCTIONS[:2], *OPTIMIZERS)), *(LOADERS[:2] if loaders else ())]
    found += [f"{key!r} is missing" for key in needed if key not in config and key not in known]
    for key in (*MODELS, *FUNCTIONS, *LOADERS, "trainer"):
        if key in config and key not in known:
            bound = isinstance(config[key], Mapping) and key in FUNCTIONS
            found += _bound_errors(key, config[key]) if bound else _object_errors(key, config[key])
    for key in OPTIMIZERS:
        if key in config and key not in known:
            found += _optimizer_errors(key, config[key])
    for key, kind in PLAIN.items():
        value = config.get(key)
        if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
            found.append(f"{key!r} must be {_described(kind)}, got {value!r}")
    for key in TABLES:
        if not isinstance(config.get(key, {}), Mapping):
            found.append(f"{key!r} must be a table, got {config[key]!r}")
    found += _chain_errors(config) + _section_errors(config) + _fit_errors(config) + _callback_errors(config)
    for name, value in _table(config, "metrics").items():
        found += _object_errors(f"metrics.{name}", value)
    return found


def build(config: Mapping[str, Any], objects: Mapping[str, Any], trainer_class: type[BilevelTrainer]) -> BilevelTrainer:
    """Build the trainer.

    Args:
        config: what :func:`read` returned.
        objects: constructor arguments that take precedence.
        trainer_class: what to build where the configuration names no class of its own.

    Raises:
        ConfigurationError: with everything that is wrong.
    """
    config, objects = _separated(config, objects)
    wrong = errors(config, objects, loaders=False)
    if wrong:
        raise ConfigurationError(wrong)
    cls = resolved(config["trainer"]) if "trainer" in config else trainer_class
    arguments: dict[str, Any] = {key: config[key] for key in PLAIN if config.get(key) is not None}
    for key in MODELS:
        if key not in objects:
            made = resolved(config[key])
            arguments[key] = made if isinstance(made, jt.Module) else made()
    arguments.update({key: _function(config[key]) for key in FUNCTIONS if config.get(key) and key not in objects})
    models = {**arguments, **objects}
    for key in OPTIMIZERS:
        if key in config and key not in objects:
            table = dict(config[key])
            optimizer = getattr(jt.optim, table.pop("class"))
            arguments[key] = optimizer(models[key.replace("optimizer", "model")].parameters(), **table)
    arguments["metrics"] = {name: resolved(value) for name, value in _table(config, "metrics").items()}
    arguments["solver_config"] = _table(config, "solver_config")
    arguments["callbacks"] = [_callback(table) for table in config.get("callbacks", [])]
    trainer: BilevelTrainer = cls(**{**arguments, **objects})
    return trainer


def _separated(config: Mapping[str, Any], objects: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Take objects that were put into a dict, instead of their names, out of it."""
    kept, taken = dict(config), dict(objects)
    for key in (*MODELS, *FUNCTIONS, *OPTIMIZERS, "ll_var", "ul_var"):
        if key in kept and not isinstance(kept[key], (str, Mapping)):
            taken.setdefault(key, kept.pop(key))
    return kept, taken


def resolved(reference: str) -> Any:
    """The object called ``package.module:name``; modules are looked for in the working directory too.

    Raises:
        ValueError: if there is no such thing.
    """
    module_name, colon, name = reference.partition(":")
    if not colon:
        raise ValueError(f"{reference!r} must have the form package.module:name")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"{reference!r}: cannot import {module_name}: {error}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{reference!r}: {module_name} has no {part!r}.{registry.nearest(part, dir(found))}")
        found = getattr(found, part)
    return found


def _function(value: str | Mapping[str, Any]) -> Callable[..., Any]:
    """A function by its name, or by a table of its name and the keyword arguments to bind."""
    if isinstance(value, str):
        return resolved(value)
    return functools.partial(resolved(value["function"]), **value.get("params", {}))


def _bound_errors(key: str, value: Mapping[str, Any]) -> list[str]:
    found = [
        f"{key!r} has no key {name!r}.{registry.nearest(name, BOUND)}" for name in value if name not in BOUND
    ] + _object_errors(f"{key}.function", value.get("function"))
    if not isinstance(value.get("params", {}), Mapping):
        found.append(f"{key!r}: 'params' must be a table, got {value['params']!r}")
    return found


def _object_errors(key: str, value: Any) -> list[str]:
    if not isinstance(value, str):
        return [f"{key!r} must be the name of an object, package.module:name, got {value!r}"]
    try:
        resolved(value)
    except ValueError as error:
        return [f"{key!r}: {error}"]
    return []


def _optimizer_errors(key: str, value: Any) -> list[str]:
    if not isinstance(value, Mapping) or "class" not in value:
        return [f"{key!r} must be a table with a class, such as {{class = 'SGD', lr = 0.1}}, got {value!r}"]
    optimizer = getattr(jt.optim, str(value["class"]), None)
    if not (inspect.isclass(optimizer) and issubclass(optimizer, jt.optim.Optimizer)):
        classes = [n for n, c in vars(jt.optim).items() if inspect.isclass(c) and issubclass(c, jt.optim.Optimizer)]
        return [f"{key!r}: no optimizer {value['class']!r} in jt.optim.{registry.nearest(value['class'], classes)}"]
    return _argument_errors(key, optimizer, {k: v for k, v in value.items() if k != "class"}, skip=("params",))


def _argument_errors(
    where: str, function: Callable[..., Any], given: Mapping[str, Any], skip: tuple[str, ...] = ()
) -> list[str]:
    parameters = {n: p for n, p in inspect.signature(function).parameters.items() if n not in skip}
    label = f"{where!r}: {getattr(function, '__name__', where)}"
    required = [n for n, p in parameters.items() if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    return [
        f"{label} has no argument {name!r}.{registry.nearest(name, parameters)}"
        for name in given
        if name not in parameters
    ] + [f"{label} needs {name!r}" for name in required if name not in given]


def _chain_errors(config: Mapping[str, Any]) -> list[str]:
    if config.get("fo_op") is not None:
        methods = registry.operators("fo")
        if config["fo_op"] not in methods:
            return [f"'fo_op': no method {config['fo_op']!r}.{registry.nearest(config['fo_op'], methods)}"]
        return []
    try:
        registry.order_chain(config.get("gm_op") or ("NGD",), config.get("na_op") or ("RAD",))
    except (TypeError, ValueError) as error:
        return [str(error)]
    return []


def _section_errors(config: Mapping[str, Any]) -> list[str]:
    found = []
    for name, section in _table(config, "solver_config").items():
        try:
            registry.check_sections({name: section})
        except (TypeError, ValueError) as error:
            found.append(str(error))
    return found


def _fit_errors(config: Mapping[str, Any]) -> list[str]:
    return [f"'fit' has no key {key!r}.{registry.nearest(key, FIT)}" for key in _table(config, "fit") if key not in FIT]


def _callback_errors(config: Mapping[str, Any]) -> list[str]:
    tables = config.get("callbacks", [])
    if not isinstance(tables, list):
        return [f"'callbacks' must be a list of tables, got {tables!r}"]
    found = []
    for number, table in enumerate(tables):
        where = f"callbacks[{number}]"
        if not isinstance(table, Mapping) or "class" not in table:
            found.append(f"{where!r} must be a table with a class, got {table!r}")
            continue
        try:
            cls = _callback_class(table["class"])
        except ValueError as error:
            found.append(f"{where!r}: {error}")
            continue
        wrong = _argument_errors(where, cls, {k: v for k, v in table.items() if k != "class"})
        if not wrong:
            try:
                _callback(table)
            except (TypeError, ValueError) as error:
                wrong = [f"{where!r}: {error}"]
        found += wrong
    return found


def _callback(table: Mapping[str, Any]) -> Callback:
    arguments = dict(table)
    callback: Callback = _callback_class(arguments.pop("class"))(**arguments)
    return callback


def _callback_class(name: str) -> Any:
    if ":" in name:
        return resolved(name)
    if name not in callback_classes.__all__:
        raise ValueError(f"no callback {name!r}.{registry.nearest(name, callback_classes.__all__)}")
    return getattr(callback_classes, name)


def _table(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = config.get(key, {})
    return dict(value) if isinstance(value, Mapping) else {}


def _described(kind: type) -> str:
    return {list: "a list", str: "a string", int: "an integer", bool: "true or false"}[kind]
