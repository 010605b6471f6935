"""Where Jittor keeps everything that it compiles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import json
import os
from pathlib import Path
import tempfile


def jittor_home(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder under whose ``.cache/jittor`` Jittor keeps everything it compiles.

    It is JITTOR_HOME, or the one that an earlier program was started with, which Jittor remembers, or the user's home.
    """
    return Path(environ.get("JITTOR_HOME") or _remembered_home() or _users_home()).absolute()


def _users_home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        raise RuntimeError(
            "Jittor compiles its kernels below the home of the user, and this user has none: HOME is not set. "
            "Set the environment variable JITTOR_HOME to a folder you can write to."
        ) from error


def _remembered_home() -> str | None:
    try:
        remembered = json.loads((Path.home() / ".cache" / "jittor" / "config.json").read_text())
    except (OSError, ValueError, RuntimeError):
        return None
    return remembered.get("JITTOR_HOME") if isinstance(remembered, dict) else None


def require_writable_home(home: Path) -> None:
    """Fail early, and in words, where Jittor could not compile.

    Raises:
        RuntimeError: if nothing can be written below ``home/.cache/jittor``.
    """
    cache = home / ".cache" / "jittor"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError as error:
        raise not_written(cache, error) from error


def not_written(cache: Path, error: OSError) -> RuntimeError:
    """The error where Jittor's cache cannot be written."""
    return RuntimeError(
        f"Jittor compiles its kernels into {cache}, which cannot be written ({error}). "
        "Set the environment variable JITTOR_HOME to a folder you can write to."
    )


@contextlib.contextmanager
def where_jittor_can_write(home: Path) -> Iterator[None]:
    """Jittor opens ``~/.cache/jittor`` even when JITTOR_HOME leads elsewhere; lend it that home if it must not."""
    original = os.environ.get("HOME")
    try:
        require_writable_home(Path.home())
    except RuntimeError:
        os.environ["HOME"] = str(home)
    try:
        yield
    finally:
        if original is None:
            os.environ.pop("HOME", None)
        else:
            os.environ["HOME"] = original
