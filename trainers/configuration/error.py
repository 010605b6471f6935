"""What a configuration's errors are raised as."""

from __future__ import annotations

from collections.abc import Iterable


class ConfigurationError(ValueError):
    """A configuration with errors.

    Attributes:
        errors: one sentence each.
    """

    def __init__(self, errors: Iterable[str]) -> None:
        self.errors = list(errors)
        super().__init__("; ".join(self.errors))
