"""``python -m jboat train CONFIG`` and ``python -m jboat validate CONFIG``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
import sys
from typing import TYPE_CHECKING, Any

from jboat.backend import ranks
from jboat.trainers.configuration import build
from jboat.trainers.configuration.build import ConfigurationError
from jboat.trainers.persistence import run_record

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer


def train(paths: Sequence[str], settings: Sequence[str]) -> int:
    """Run a configuration; returns 0, or 2 with every error printed. Of several processes rank 0 speaks and writes.

    Args:
        paths: the configuration's file or folder, or BOAT's two files.
        settings: ``key=value`` each.
    """
    built = _built(paths, settings, defaults={"logger_dir": "runs/train"})
    if built is None:
        return 2
    config, trainer = built
    folder, speaks, summary = Path(str(trainer.logger_dir)), ranks.rank() == 0, trainer.summary()
    if speaks:
        folder.mkdir(parents=True, exist_ok=True)
        run_record.write(folder, config, trainer.seed)
        print(summary, flush=True)
    # a function of no arguments is a generator factory, which fit calls for every pass
    loaders = {key: build.resolved(config[key]) for key in build.LOADERS if config.get(key)}
    history = trainer.fit(loaders.pop("ll_loader"), loaders.pop("ul_loader"), **loaders, **config.get("fit", {}))
    if not speaks:
        return 0
    last = history.rows[-1]
    numbers = {name: last[name] for name in last if name in ("ll_loss", "ul_loss") or name.startswith("val_")}
    print(f"{last['step']:.0f} outer steps: " + ", ".join(f"{name} {value:.4g}" for name, value in numbers.items()))
    print(f"results in {folder}")
    return 0


def validate(paths: Sequence[str], settings: Sequence[str]) -> int:
    """Print every error of a configuration; returns 0 if there is none, else 2. Arguments as those of :func:`train`."""
    if _built(paths, settings, defaults={}) is None:
        return 2
    print(f"{' with '.join(paths)} is valid")
    return 0


def _built(
    paths: Sequence[str], settings: Sequence[str], defaults: dict[str, Any]
) -> tuple[dict[str, Any], BilevelTrainer] | None:
    """The configuration and its trainer, or None with every error printed; notes on what was translated are too."""
    try:
        config, notes = build.read(paths[0] if len(paths) == 1 else paths)
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
        config = {**defaults, **build.with_settings(config, settings)}
        return config, build.build(config, {}, with_loaders=True)
    except ConfigurationError as error:
        for sentence in error.errors:
            print(f"error: {sentence}", file=sys.stderr)
        return None
