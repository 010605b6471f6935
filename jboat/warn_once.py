"""Warnings that are worth one line a run."""

from __future__ import annotations

import logging

_logger = logging.getLogger("jboat")


class WarnOnce:
    """Logs each warning the first time alone; whoever holds it decides by its own life how long once is."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def __call__(self, message: str, *values: object) -> None:
        """Log ``message % values`` unless ``message`` was given before, whatever its values were."""
        if message not in self._given:
            self._given.add(message)
            _logger.warning(message, *values)
