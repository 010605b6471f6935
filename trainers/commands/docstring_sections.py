"""The sections of docstrings, for pages that are made of them."""

from __future__ import annotations

import inspect
import re


def entries(docstring: str | None, section: str) -> dict[str, str]:
    """What a section such as ``"Args"`` says of each name, as one line each; empty where there is no such section."""
    _, found, rest = inspect.cleandoc(docstring or "").partition(f"{section}:\n")
    meanings: dict[str, str] = {}
    name = ""
    for line in rest.splitlines() if found else ():
        if line.strip() and not line.startswith("    "):
            break
        named = re.match(r"    (\w+): (.*)", line)
        if named:
            name = named[1]
            meanings[name] = named[2]
        elif name and line.strip():
            meanings[name] += f" {line.strip()}"
    return {name: markdown(meaning) for name, meaning in meanings.items()}


def markdown(text: str) -> str:
    """A docstring's words as Markdown has them."""
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text.replace("``", "`"))
