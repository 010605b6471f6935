"""Files that appear whole or not at all, under names that no other writer takes, and nothing left of killed writers.

A scratch file is locked while it is written, and the system drops the lock when its writer ends, however it ends. A
scratch file that nobody has locked is therefore a leftover, whichever process or machine it is from.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
import errno
import fcntl
import os
from pathlib import Path
import re
import secrets
import shutil
import stat
from typing import BinaryIO

from jboat.callbacks.write_errors import naming


@contextmanager
def scratch_file(target: Path) -> Iterator[BinaryIO]:
    """Open a new file beside ``target`` that takes its name when the block ends without an exception.

    The content is brought to disk before the file is renamed, and the file has the mode that the umask gives.

    Args:
        target: the file to write; its folder must exist.

    Raises:
        OSError: if it cannot be written, or is a device, a pipe or a socket, whose place no file should take; it is
            named, and what was there before is left as it was.
    """
    with naming(target):
        _require_no_device(target)
        handle, scratch = _created(target)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(scratch, target)  # before it is closed, which gives up the lock
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise


def second_name(target: Path, name: Path) -> None:
    """Let ``name`` lead to the content of ``target`` too, in one step.

    It becomes a hard link, or a copy where the file system or the other folder allows none.

    Args:
        target: the file that is there.
        name: its other name; what it led to before is replaced.

    Raises:
        OSError: if neither can be made; what ``name`` led to is left as it was.
    """
    scratch = _unused(name)
    with target.open("rb") as source:
        _try_lock(source.fileno())  # the link is a scratch file of this content
        try:
            try:
                os.link(target, scratch)
            except OSError:
                with scratch_file(name) as copy:
                    shutil.copyfileobj(source, copy)
            else:
                os.replace(scratch, name)
        finally:
            scratch.unlink(missing_ok=True)


def remove_leftovers(folder: Path, names: str) -> None:
    """Remove the scratch files of writers that are no more.

    Args:
        folder: where to look.
        names: a regular expression for the names of the files that were being written.
    """
    pattern = re.compile(rf"\.({names})\.(.*\.)?tmp")
    for path in folder.glob(".*.tmp"):
        if pattern.fullmatch(path.name) and not path.is_symlink():
            with suppress(OSError), path.open("rb+") as file:
                if _try_lock(file.fileno()):
                    path.unlink(missing_ok=True)


def _require_no_device(target: Path) -> None:
    with suppress(FileNotFoundError):
        mode = os.stat(target).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise OSError(errno.EINVAL, "Is a device, a pipe or a socket, not a file", os.fspath(target))


def _created(target: Path) -> tuple[int, Path]:
    """A new scratch file, open and locked."""
    while True:
        scratch = _unused(target)
        try:
            handle = os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            continue
        except OSError as error:
            raise OSError(error.errno, error.strerror, os.fspath(target)) from error
        _try_lock(handle)
        with suppress(FileNotFoundError):  # taken for a leftover before it was locked
            if os.path.samestat(os.stat(scratch), os.fstat(handle)):
                return handle, scratch
        os.close(handle)


def _unused(target: Path) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def _try_lock(handle: int) -> bool:
    """Lock an open file unless another has; False too where the file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
