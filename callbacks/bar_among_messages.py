"""Messages of the logger ``jboat`` above a bar, not in the midst of it."""

from __future__ import annotations

import logging
from typing import Any

_logger = logging.getLogger("jboat")


class BarAmongMessages(logging.Handler):
    """Takes the bar away before a message is written, until :meth:`end`; the bar's next drawing brings it back.

    Args:
        bar: of tqdm.
    """

    def __init__(self, bar: Any) -> None:
        super().__init__()
        self._bar = bar
        _logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Clear the bar and, where nobody else writes messages, write this one as ``logging`` does by itself."""
        self._bar.clear()
        alone = not logging.getLogger().handlers and all(h is self for h in _logger.handlers)
        last = logging.lastResort
        if alone and last is not None and record.levelno >= last.level:
            last.handle(record)

    def end(self) -> None:
        """Let messages be."""
        _logger.removeHandler(self)
