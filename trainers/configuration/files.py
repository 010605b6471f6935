"""Read a configuration: which files it lies in, and whether they can be taken at their word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
import copy
import datetime
import json
import math
import os
from pathlib import Path
import re
import sys
from typing import Any

from jboat.trainers.configuration import boat_files
from jboat.trainers.configuration.error import ConfigurationError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Source = str | os.PathLike[str] | Mapping[str, Any]

_YAML = (".yaml", ".yml")
DEEPEST = 32
"""Levels of tables and lists. Parsers recurse, and Jittor raises the limit at which Python would stop them."""

_JSON_STRING = re.compile(r'"(?:\\.|[^"\\])*"', re.DOTALL)
_TOML_TEXT = re.compile(
    r'"""(?:\\.|[^\\])*?"""' + r"|'''.*?'''" + r'|"(?:\\.|[^"\\\n])*"' + r"|'[^'\n]*'|#[^\n]*", re.DOTALL
)


def read(source: Source | Sequence[Source]) -> tuple[dict[str, Any], list[str]]:
    """A configuration as a dict, and notes on what was translated.

    Args:
        source: a dict; a ``.json`` or ``.toml`` file; a folder with BOAT's ``boat_config.json`` and
            ``loss_config.json``, or with one ``boat_config_NAME.json`` and its ``loss_config_NAME.json``; or a pair of
            such files or dicts. A configuration of BOAT is recognised and translated.

    Raises:
        ConfigurationError: if a file cannot be read, or holds what no configuration may.
    """
    parts = _parts(source)
    data: dict[str, Any] = {}
    wrong: list[str] = []
    for name, part in parts:
        wrong += [f"{name}: {sentence}" if name else sentence for sentence in _faults(part)]
        data.update(part)
    if wrong:
        raise ConfigurationError(wrong)
    is_boats = boat_files.recognised(data)
    if len(parts) > 1 and not is_boats:
        raise ConfigurationError(
            ["two files or dicts are BOAT's boat_config and loss_config, and these are not; jboat's own is one"]
        )
    return boat_files.translated(data) if is_boats else (data, [])


def with_settings(config: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """A copy with ``key=value`` settings; dots lead into tables, values are JSON or else strings.

    Raises:
        ConfigurationError: for a setting without ``=``, or one that leads into something that is no table.
    """
    result = copy.deepcopy(dict(config))
    for setting in settings:
        key, equals, text = setting.partition("=")
        *folders, last = names = key.strip().split(".")
        if not equals or not all(names):
            raise ConfigurationError([f"--set needs key=value, got {setting!r}"])
        try:
            value = _json(text)
        except ValueError:
            value = text
        table = result
        for folder in folders:
            table = table.setdefault(folder, {})
            if not isinstance(table, dict):
                raise ConfigurationError([f"--set {setting}: {folder} is no table"])
        table[last] = value
    wrong = list(_faults(result))
    if wrong:
        raise ConfigurationError(wrong)
    return result


def _parts(source: Source | Sequence[Source]) -> list[tuple[str, dict[str, Any]]]:
    """The tables that make up a configuration, each with the name of its file."""
    if isinstance(source, Mapping):
        return [("", dict(source))]
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        return [(str(file), _parsed(file)) for file in (_boat_files(path) if path.is_dir() else [path])]
    pair = source if isinstance(source, (list, tuple)) and len(source) == 2 else ()
    if pair and all(isinstance(one, (str, os.PathLike, Mapping)) for one in pair):
        return [part for one in pair for part in _parts(one)]
    raise ConfigurationError(
        [f"a configuration is a file, a folder, a dict, or a pair of BOAT's two files or dicts, got {source!r}"]
    )


def _boat_files(folder: Path) -> list[Path]:
    """BOAT's two files in a folder; the second may be missing.

    Raises:
        ConfigurationError: if there is none, or no telling which.
    """
    names = sorted(path.name for path in folder.glob("*.json"))
    boats = [name for name in names if re.fullmatch(r"boat_config(_.+)?\.json", name)]
    losses = [name for name in names if re.fullmatch(r"loss_config(_.+)?\.json", name)]
    chosen = "boat_config.json" if "boat_config.json" in boats else boats[0] if len(boats) == 1 else ""
    if not chosen:
        there = f"several: {', '.join(boats)}" if boats else f"{', '.join(names) or 'no .json file'}"
        raise ConfigurationError(
            [
                f"{folder} has no single configuration of BOAT: looked for boat_config.json, or one "
                f"boat_config_NAME.json, found {there}. Give a file, or BOAT's two files as a pair."
            ]
        )
    partner = chosen.replace("boat_config", "loss_config", 1)
    if partner not in losses and losses:
        raise ConfigurationError(
            [
                f"{folder / chosen} goes with {partner}, which is not there; found {', '.join(losses)}. "
                "Give BOAT's two files as a pair."
            ]
        )
    return [folder / name for name in (chosen, partner) if name in names]


def _parsed(path: Path) -> dict[str, Any]:
    if path.suffix.lower() in _YAML:
        raise ConfigurationError([f"{path}: jboat reads no YAML, only .json and .toml files; write it as one of these"])
    is_toml = path.suffix == ".toml"
    try:
        text = path.read_text(encoding="utf-8")
        data = _toml(text) if is_toml else _json(text)
    except OSError as error:
        raise ConfigurationError([f"cannot read {path}: {error.strerror}"]) from error
    except ValueError as error:
        raise ConfigurationError([f"{path} is no valid {'TOML' if is_toml else 'JSON'}: {error}"]) from error
    if not isinstance(data, dict):
        raise ConfigurationError([f"{path} must hold a table of keys, got {type(data).__name__}"])
    return data


def _toml(text: str) -> Any:
    _check_depth(text, _TOML_TEXT)
    return tomllib.loads(text)


def _json(text: str) -> Any:
    _check_depth(text, _JSON_STRING)
    return json.loads(text, object_pairs_hook=_Table, parse_constant=_refused, parse_float=_finite)


def _check_depth(text: str, strings: re.Pattern[str]) -> None:
    depth = 0
    for bracket in re.findall(r"[\[\]{}]", strings.sub('""', text)):
        depth += 1 if bracket in "[{" else -1
        if depth > DEEPEST:
            raise ValueError(f"tables and lists lie more than {DEEPEST} deep")


def _refused(constant: str) -> float:
    raise ValueError(f"{constant} is no number that JSON knows")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is too large for a number")
    return number


class _Table(dict[str, Any]):
    """A table of a JSON file, and the keys that stand in it more than once."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.repeated = [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]


def _faults(data: Any) -> Iterator[str]:
    """What no configuration may hold, with its place: keys twice or no strings, NaN, dates, endless nesting."""
    waiting: list[tuple[str, int, Any]] = [("", 0, data)]
    while waiting:
        place, depth, value = waiting.pop()
        where = f"{place!r}: " if place else ""
        if depth > DEEPEST:
            yield f"'{place[:60]}...' lies more than {DEEPEST} tables deep"
            return
        if isinstance(value, Mapping):
            yield from (f"{where}the key {key!r} stands twice" for key in getattr(value, "repeated", ()))
            yield from (f"{where}keys must be strings, got {key!r}" for key in value if not isinstance(key, str))
            waiting += [(f"{place}.{key}" if place else str(key), depth + 1, v) for key, v in value.items()]
        elif isinstance(value, (list, tuple)):
            waiting += [(f"{place}[{i}]", depth + 1, v) for i, v in enumerate(value)]
        elif isinstance(value, float) and not math.isfinite(value):
            yield f"{where}a number must be finite, got {value}"
        elif isinstance(value, (datetime.date, datetime.time)):
            yield f"{where}dates and times are no values of a setting, got {value}"
