"""Write a file so that it is there whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import tempfile
from typing import IO, Any


@contextmanager
def atomic_file(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path`` that takes its name when the block ends without an exception.

    Args:
        path: the file to write; its folder is made when missing.
        mode: ``"w"`` for text (newlines written as they are) or ``"wb"`` for bytes.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    newline, encoding = (None, None) if "b" in mode else ("", "utf-8")
    handle, scratch = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, mode, newline=newline, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, target)
    except BaseException:
        os.unlink(scratch)
        raise
