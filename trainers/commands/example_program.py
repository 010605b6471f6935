"""The program that ``python -m jboat warmup --example`` names, found without starting Jittor."""

from __future__ import annotations

from pathlib import Path


def found(example: str) -> Path | None:
    """The program of that name in the folder ``examples`` of the working directory, or at that path; None for none."""
    for path in (Path(example), Path("examples") / f"{example}.py"):
        if path.is_file():
            return path.resolve()
    return None


def missing(example: str) -> str:
    """Where a program that is not found was looked for, and what is there, in a sentence."""
    folder = Path("examples").resolve()
    known = ", ".join(sorted(path.stem for path in folder.glob("*.py"))) or "none"
    return f"no program {example!r} here or in the folder {folder}, of the working directory; there: {known}"
