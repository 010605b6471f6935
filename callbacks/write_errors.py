"""Errors of writing that name the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import os


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let an OSError of the block name ``path`` where it names no file, as that of a full disk does not.

    Args:
        path: the file that the block writes.

    Raises:
        OSError: with the error's number, its text and ``path``.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        if error.errno is None:
            raise OSError(f"{os.fspath(path)} could not be written: {error}") from error
        raise OSError(error.errno, error.strerror or os.strerror(error.errno), os.fspath(path)) from error
