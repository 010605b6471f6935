"""A model's weights in a file that numpy alone can read.

The file is an uncompressed ``.npz`` with one array a parameter or buffer, each under its own name; where it holds both
models of a trainer, names begin with ``ll_model.`` and ``ul_model.``.
"""

from __future__ import annotations

from collections.abc import Mapping
import os
from typing import TYPE_CHECKING, Literal

from jboat.spelling import nearest
from jboat.trainers import arguments
from jboat.trainers.persistence import archive, npz_file
from jboat.trainers.persistence.atomic_file import atomic_file
from jboat.trainers.persistence.npz_file import ArchiveError
import jittor as jt
import numpy as np

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer

Level = Literal["ll", "ul"]
LEVELS = {"ll": "ll_model.", "ul": "ul_model."}
_FIRST = 5


class WeightsError(ValueError):
    """A file's weights cannot be used; the message names the file and says why."""


def save(trainer: BilevelTrainer, path: str | os.PathLike[str], level: Level | None) -> None:
    """Write the parameters and buffers of one of a trainer's models, or of both; see ``save_weights``."""
    models = {"ll": trainer.ll_model, "ul": trainer.ul_model}
    if level is not None:
        arguments.choice("level", level, tuple(LEVELS))
        named = {name: v for name, v in models[level].named_parameters()}
    else:
        named = {f"{prefix}{name}": v for key, prefix in LEVELS.items() for name, v in models[key].named_parameters()}
    content = npz_file.packed({name: v.numpy() for name, v in named.items()})
    with atomic_file(path, "wb") as file:
        file.write(content)


def load_weights(path: str | os.PathLike[str], module: jt.Module, level: Level | None = None) -> None:
    """Give a module the weights in a file, all of them or, where one does not fit, none.

    The file is one that ``trainer.save_weights`` wrote, or any uncompressed ``.npz`` (``numpy.savez``) with one array
    for each of ``module.named_parameters()``. It may come from anyone: nothing in it is executed. Floating-point
    numbers become those of the module's own type; whether a parameter is stop_grad stays as it is.

    Args:
        path: the file.
        module: what takes them.
        level: ``"ll"`` or ``"ul"``: which model of a file that holds both. Without it, the one whose names and shapes
            are the module's.

    Raises:
        TypeError: if ``module`` is no Jittor module.
        ValueError: for another ``level``, or if both models of the file fit the module and ``level`` is not given.
        WeightsError: (a ValueError) if the file is missing, damaged or compressed, or names, shapes or types differ
            from the module's.
    """
    arguments.module("module", module)
    if level is not None:
        arguments.choice("level", level, tuple(LEVELS))
    try:
        content = npz_file.content_of(path)
        arrays = npz_file.arrays_of(content)
    except ArchiveError as error:
        said = str(error)
        hint = "; numpy.savez writes what can be read" if "compressed" in said else ""
        raise WeightsError(said if said.startswith(str(path)) else f"{path} holds no weights: {said}{hint}") from error
    except Exception as error:  # whatever a parser makes of a stranger's bytes
        raise WeightsError(f"{path} holds no weights: {error}") from error
    named = dict(module.named_parameters())
    chosen = _chosen(path, arrays, named, level)
    if archive.is_checkpoint(content) and not _fits(chosen, named):
        raise WeightsError(
            f"{path} is a checkpoint: trainer.load_checkpoint(path, what='models') takes its models, and "
            "trainer.save_weights then writes them for load_weights"
        )
    require_fit(path, chosen, named)
    values = [(v, _as_type(path, name, chosen[name], str(v.dtype))) for name, v in named.items()]
    for v, array in values:
        v.update(jt.array(array, dtype=str(array.dtype)))
    jt.sync(list(named.values()))


def require_fit(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], named: Mapping[str, jt.Var]) -> None:
    """Require an array of its shape for each Var, and no other.

    Raises:
        WeightsError: with the names that are missing, unexpected or of another shape.
    """
    missing = [name for name in named if name not in arrays]
    unexpected = [name for name in arrays if name not in named]
    wrong = []
    if missing:
        wrong.append(f"it has no {_listed([repr(name) + nearest(name, unexpected) for name in missing])}")
    if unexpected:
        wrong.append(f"it has {_listed([repr(name) for name in unexpected])}, which the module has not")
    wrong += [
        f"{name!r} has shape {list(arrays[name].shape)}, and the module's has {list(v.shape)}"
        for name, v in named.items()
        if name in arrays and tuple(arrays[name].shape) != tuple(v.shape)
    ][:_FIRST]
    if wrong:
        raise WeightsError(f"{path} does not fit the module: {'; '.join(wrong)}")


def _chosen(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray],
    named: Mapping[str, jt.Var],
    level: Level | None,
) -> Mapping[str, np.ndarray]:
    """The arrays that are meant for the module, under its own names."""
    by_level = {key: _without(prefix, arrays) for key, prefix in LEVELS.items()}
    if level is not None and any(by_level.values()):
        return by_level[level]
    if level is not None or _fits(arrays, named) or not all(by_level.values()):
        return arrays
    fitting = [key for key, part in by_level.items() if _fits(part, named)]
    if len(fitting) > 1:
        raise ValueError(f"{path} holds two models that fit the module; say which by level='ll' or level='ul'")
    if fitting:
        return by_level[fitting[0]]
    return max(by_level.values(), key=lambda part: len(part.keys() & named.keys()))


def _without(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}


def _fits(arrays: Mapping[str, np.ndarray], named: Mapping[str, jt.Var]) -> bool:
    return arrays.keys() == named.keys() and all(tuple(arrays[n].shape) == tuple(v.shape) for n, v in named.items())


def _as_type(path: str | os.PathLike[str], name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    """The array in the module's own type."""
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if str(array.dtype) == dtype:
        return array
    if array.dtype.kind != "f" or not dtype.startswith("float"):
        raise WeightsError(f"{path}: {name!r} has dtype {array.dtype}, and the module's has {dtype}")
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if not np.array_equal(np.isfinite(cast), np.isfinite(array)):
        raise WeightsError(f"{path}: {name!r} holds numbers that are too large for the module's {dtype}")
    return cast


def _listed(entries: list[str]) -> str:
    more = f" and {len(entries) - _FIRST} more" if len(entries) > _FIRST else ""
    return ", ".join(entries[:_FIRST]) + more
