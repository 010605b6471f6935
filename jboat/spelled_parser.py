"""A reader of command lines whose errors name the nearest valid spelling."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import re
from typing import NoReturn

from jboat.spelling import nearest


class SpelledParser(argparse.ArgumentParser):
    """Tells which command, option or choice a misspelt one is near to; an option of one of its commands, too."""

    def parse_args(  # type: ignore[override]  # whose overloads are for namespaces of other classes
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """See ``argparse``."""
        given, unknown = self.parse_known_args(args, namespace)
        if unknown:
            reader = self._of(getattr(given, "command", None))
            options = [name for action in reader._actions for name in action.option_strings]
            hints = "".join(nearest(word.split("=")[0], options) for word in unknown if word.startswith("-"))
            message = f"unrecognized arguments: {' '.join(unknown)}"
            reader.error(f"{message}.{hints}" if hints else message)
        return given

    def error(self, message: str) -> NoReturn:
        """Print the message and end the program; see ``argparse``."""
        choice = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        hint = nearest(choice[1], re.findall(r"[\w-]+", choice[2])) if choice else ""
        super().error(f"{message}.{hint}" if hint else message)

    def _of(self, command: str | None) -> argparse.ArgumentParser:
        """What reads the arguments of a command; without one, this."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction) and command in action.choices:
                return action.choices[command]
        return self
