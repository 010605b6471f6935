"""``python -m jboat changes``: what jboat changes in a process, as the page docs/changes.md."""

from __future__ import annotations

import inspect
from typing import Any

from jboat.backend import process_changes, start
from jboat.backend.replacements import dispatch

_PREFACE = """# What jboat changes in a process

Made by `python -m jboat changes`; do not edit.

`import jboat` starts Jittor. Variables that you have set are left alone, and a function that
you put in the place of one of Jittor's is used, inside of a trainer's block and after it.
"""


def main() -> int:
    """Print the page; returns 0."""
    print(page())
    return 0


def page() -> str:
    """The page, from the registries that the changes themselves are made from."""
    start.start()
    functions: dict[str, list[str]] = {}
    for (owner, name), found in dispatch.installed().items():
        functions.setdefault(found.why, []).append(f"`{_path(owner)}.{name}`")
    return "\n".join(
        [
            _PREFACE,
            "## Functions of Jittor",
            "",
            "A dispatcher lies in the place of each from Jittor's start on. Outside of `fit`, `hypergradient` and "
            "`evaluate` it runs Jittor's own function.",
            "",
            "| functions | what runs while a trainer does |",
            "| --- | --- |",
            *(f"| {', '.join(sorted(names))} | {why} |" for why, names in functions.items()),
            "",
            "## Environment variables",
            "",
            "| variable | what it is set to |",
            "| --- | --- |",
            *(f"| `{name}` | {why} |" for name, why in process_changes.ENVIRONMENT.items()),
            "",
            "## Flags of Jittor",
            "",
            "| flag | what it is set to |",
            "| --- | --- |",
            *(f"| `{name}` | {why} |" for name, why in process_changes.FLAGS.items()),
            "",
            "## Besides",
            "",
            *(f"* {sentence}." for sentence in process_changes.RESTORED),
        ]
    )


def _path(owner: Any) -> str:
    import jittor as jt

    homes = (jt, jt.nn, jt.depthwise_conv, jt.pool)
    for home in homes if inspect.isclass(owner) else ():
        for name, value in vars(home).items():
            if value is owner:
                return f"{home.__name__}.{name}"
    return str(owner.__name__)
