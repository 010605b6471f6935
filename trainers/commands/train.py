"""``python -m jboat train CONFIG`` and ``python -m jboat validate CONFIG``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
import sys
from typing import Any

from jboat.trainers import configuration, run_record
from jboat.trainers.bilevel_trainer import BilevelTrainer
from jboat.trainers.configuration import ConfigurationError


def train(path: str, settings: Sequence[str]) -> int:
    """Run a configuration; returns 0, or 2 with every error printed."""
    config, wrong = _checked(path, settings)
    if wrong:
        return 2
    trainer = configuration.build({"logger_dir": "runs/train", **config}, {}, BilevelTrainer)
    folder = Path(str(trainer.logger_dir))
    folder.mkdir(parents=True, exist_ok=True)
    run_record.write(folder, config, trainer.seed)
    loaders = {key: _loader(config[key]) for key in configuration.LOADERS if key in config}
    fit = dict(config.get("fit", {}))
    history = trainer.fit(loaders.pop("ll_loader"), loaders.pop("ul_loader"), **loaders, **fit)
    last = history.rows[-1]
    numbers = {name: last[name] for name in last if name in ("ll_loss", "ul_loss") or name.startswith("val_")}
    print(f"{last['step']:.0f} outer steps: " + ", ".join(f"{name} {value:.4g}" for name, value in numbers.items()))
    print(f"results in {folder}")
    return 0


def validate(path: str, settings: Sequence[str]) -> int:
    """Print every error of a configuration; returns 0 if there is none, else 2."""
    _, wrong = _checked(path, settings)
    if wrong:
        return 2
    print(f"{path} is valid")
    return 0


def _checked(path: str, settings: Sequence[str]) -> tuple[dict[str, Any], bool]:
    """The configuration, and whether it has errors, which are printed, as are notes on what was translated."""
    try:
        config, notes = configuration.read(path)
        config = configuration.with_settings(config, settings)
        wrong = configuration.errors(config)
    except ConfigurationError as error:
        config, notes, wrong = {}, [], error.errors
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    for sentence in wrong:
        print(f"error: {sentence}", file=sys.stderr)
    return config, bool(wrong)


def _loader(reference: str) -> Any:
    """A loader; a function of no arguments is a generator factory, which ``fit`` calls for every pass."""
    return configuration.resolved(reference)
