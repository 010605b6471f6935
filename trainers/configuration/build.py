"""A trainer described by a JSON or TOML file.

Objects are named as ``package.module:name``; everything else is plain data. All that can be made without data is made,
and all that is wrong is reported at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import functools
import logging
from typing import TYPE_CHECKING, Any

from jboat.spelling import nearest
from jboat.trainers.configuration import named_objects, parts, plain_settings
from jboat.trainers.configuration.error import ConfigurationError
from jboat.trainers.configuration.files import Source, read, with_settings
from jboat.trainers.configuration.named_objects import resolved
from jboat.trainers.configuration.plain_settings import PLAIN, TABLES, table

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer

_logger = logging.getLogger("jboat")

__all__ = ["LOADERS", "ConfigurationError", "Source", "build", "from_source", "read", "resolved", "with_settings"]

MODELS = ("ll_model", "ul_model")
FUNCTIONS = {"ll_objective": 3, "ul_objective": 3, "gda_loss": 4}
"""How many arguments each is called with."""
PROJECTIONS = ("ll_projection", "ul_projection")
OPTIMIZERS = {"ll_optimizer": "ll_model", "ul_optimizer": "ul_model"}
LOADERS = ("ll_loader", "ul_loader", "val_loader")
KEYS = (*MODELS, *FUNCTIONS, *PROJECTIONS, *OPTIMIZERS, *LOADERS, *PLAIN, *TABLES, "callbacks", "trainer")


def from_source(
    source: Source | Sequence[Source], objects: Mapping[str, Any], trainer_class: type[BilevelTrainer]
) -> BilevelTrainer:
    """Read a configuration, log what there is to say of it, and build the trainer.

    Args:
        source: as :func:`read` takes it.
        objects: constructor arguments that take precedence.
        trainer_class: what to build where the configuration names no class of its own.

    Raises:
        ConfigurationError: with everything that is wrong.
    """
    config, notes = read(source)
    for note in notes:
        _logger.warning("%s", note)
    return build(config, objects, trainer_class)


def build(
    config: Mapping[str, Any],
    objects: Mapping[str, Any],
    trainer_class: type[BilevelTrainer] | None = None,
    *,
    with_loaders: bool = False,
) -> BilevelTrainer:
    """Build the trainer.

    Args:
        config: what :func:`read` returned.
        objects: constructor arguments that take precedence.
        trainer_class: what to build where the configuration names no class of its own; :class:`BilevelTrainer` by
            default, which is imported, and Jittor started, only once there is something to build.
        with_loaders: whether the loaders must be there. Nothing is read from them.

    Raises:
        ConfigurationError: with everything that is wrong.
    """
    config, objects = _separated(config, objects)
    wrong = [f"unknown key {key!r}.{nearest(key, KEYS)}" for key in config if key not in KEYS]
    needed = [*MODELS, *(LOADERS[:2] if with_loaders else ())]
    if "trainer" not in config:
        needed += ["ll_objective", "ul_objective", *OPTIMIZERS]
    wrong += [f"{key!r} is missing" for key in needed if config.get(key) is None and key not in objects]
    cls: Any = trainer_class
    if "trainer" in config:
        base = trainer_class or _plain_trainer()
        cls, faults = parts.named("trainer", config["trainer"], lambda c: named_objects.class_fault(c, base))
        wrong += faults
    arguments, faults = _made(config, objects)
    wrong += faults + plain_settings.errors(config)  # last, since modules that are imported may register operators
    if wrong:
        raise ConfigurationError(wrong)
    cls = cls or _plain_trainer()
    trainer, faults = parts.called("trainer" if "trainer" in config else "", cls, **{**arguments, **objects})
    if faults:
        raise ConfigurationError(faults)
    made: BilevelTrainer = trainer
    return made


def _plain_trainer() -> type[BilevelTrainer]:
    from jboat.trainers.bilevel_trainer import BilevelTrainer  # it imports this module

    return BilevelTrainer


def _made(config: Mapping[str, Any], objects: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The constructor's arguments, and what is wrong with those that are missing among them."""
    made: dict[str, Any] = {key: config[key] for key in PLAIN if config.get(key) is not None}
    wrong: list[str] = []

    def take(key: str, part: parts.Made) -> Any:
        value, faults = part
        wrong.extend(faults)
        if not faults and value is not None:
            made[key] = value
        return value

    left = {key: value for key, value in config.items() if value is not None and key not in objects}
    for key in MODELS:
        if key in left:
            take(key, parts.model(key, left[key]))
    for key, arguments in FUNCTIONS.items():
        if key in left:
            take(key, parts.function(key, left[key], arguments))
    for key in PROJECTIONS:
        if key in left:
            take(key, parts.projection(key, left[key]))
    for key, model in OPTIMIZERS.items():
        if key in left:
            take(key, parts.optimizer(key, left[key], objects.get(model, made.get(model))))
    for key in LOADERS:
        if key in left:
            wrong += parts.named(key, left[key], functools.partial(named_objects.loader_fault, key))[1]
    metrics = {}
    for name, value in table(config, "metrics").items():
        metrics[name], faults = parts.function(f"metrics.{name}", value, 3)
        wrong += faults
    learned = {}
    for name, value in table(config, "ll_hyperparameters").items():
        learned[name], faults = parts.function(f"ll_hyperparameters.{name}", value, 1)
        wrong += faults
    if learned:
        made["ll_hyperparameters"] = learned
    made["metrics"], made["solver_config"] = metrics, table(config, "solver_config")
    take("callbacks", parts.callbacks(left.get("callbacks", [])))
    return made, wrong


def _separated(config: Mapping[str, Any], objects: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Take objects that were put into a dict, instead of their names, out of it."""
    kept, taken = dict(config), dict(objects)
    for key in (*MODELS, *FUNCTIONS, *PROJECTIONS, *OPTIMIZERS):
        if kept.get(key) is not None and not isinstance(kept[key], (str, Mapping, bool, int, float, list)):
            taken.setdefault(key, kept.pop(key))
    for key in ("ll_var", "ul_var"):
        if key in kept:
            taken.setdefault(key, kept.pop(key))
    return kept, taken
