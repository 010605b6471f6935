"""Write a file so that it is there whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import io
import os
from pathlib import Path
import re
from typing import IO, Any

from jboat.callbacks.scratch_file import remove_leftovers, scratch_file


@contextmanager
def atomic_file(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path`` that takes its name when the block ends without an exception.

    What killed writers of the same file left is removed.

    Args:
        path: the file to write; its folder is made when missing.
        mode: ``"w"`` for text (newlines written as they are) or ``"wb"`` for bytes.

    Raises:
        OSError: if it cannot be written, naming it; a file that was there before is left as it was.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent, re.escape(target.name))
    with scratch_file(target) as file:
        if "b" in mode:
            yield file
        else:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="")
            yield text
            text.detach()  # which flushes; the file stays open
