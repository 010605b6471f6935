"""Tell Jittor where this interpreter's headers are.

Jittor asks a program named ``pythonX.Y-config``, which many interpreters come without (those in virtual environments,
uv's, the systems' without a package of headers), or takes that of another installation. The variable
``python_config_path`` names it a program that answers for the interpreter that runs.
"""

from __future__ import annotations

from pathlib import Path
import shlex
import sys
import sysconfig
import tempfile
import zlib


def settings(cache: Path) -> dict[str, str]:
    """The environment variable with which Jittor finds the headers; empty where its own search has to do.

    Args:
        cache: Jittor's folder, in which the program is written unless it is there already.

    Raises:
        RuntimeError: if there are no headers, with the package that has them.
    """
    folders = include_folders()
    if not any((folder / "Python.h").is_file() for folder in folders):
        if any(path.is_file() for path in _where_jittor_looks()):
            return {}
        name = f"python{sys.version_info.major}.{sys.version_info.minor}"
        raise RuntimeError(
            f"Jittor compiles against Python's headers, and {folders[0]} has no Python.h. Install the package with the "
            f"headers of this Python ({name}-dev on Debian and Ubuntu, {name}-devel on Fedora and openSUSE), or name "
            f"another {name}-config in the environment variable python_config_path."
        )
    if shlex.quote(str(cache)) != str(cache):  # Jittor runs the program's path through a shell, unquoted
        return {}
    return {"python_config_path": str(_program(cache, folders))}


def include_folders() -> list[Path]:
    """Where this interpreter's headers should be."""
    return [Path(path) for path in dict.fromkeys(sysconfig.get_path(name) for name in ("include", "platinclude"))]


def _program(cache: Path, folders: list[Path]) -> Path:
    includes = " ".join(f'-I"{folder}"' for folder in folders)
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    text = f'#!/bin/sh\n[ "$1" = --includes ] && echo {shlex.quote(includes)} || echo {shlex.quote(suffix)}\n'
    path = cache / "jboat" / f"python-config-{zlib.crc32(text.encode()):08x}"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            fresh = Path(scratch) / path.name
            fresh.write_text(text)
            fresh.chmod(0o755)
            fresh.replace(path)
    return path


def _where_jittor_looks() -> list[Path]:
    name = f"python3.{sys.version_info.minor}-config"
    beside = Path(sys.executable).parent
    named = Path(f"{sys.executable}-config")
    return [beside / name, named, Path("/usr/bin") / name, Path("/usr/local/bin") / name, beside / "python3-config"]
