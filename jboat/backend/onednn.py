"""oneDNN from its wheel, where Jittor looks for the one that it would download."""

from __future__ import annotations

import contextlib
from pathlib import Path
import site
import sys
import tempfile

WHEEL = "onednn-devel-cpu-gomp==2021.4.0"
_FOLDER = "dnnl_lnx_2.2.0_cpu_gomp"  # the folder name Jittor's own download would have
_LIBRARY = "libmkldnn.so"


def find() -> Path | None:
    """The prefix whose ``lib`` and ``include`` hold the oneDNN wheel, or None."""
    for prefix in (sys.prefix, site.getuserbase()):
        if _holds(Path(prefix)):
            return Path(prefix)
    return None


def folder(home: Path) -> Path:
    """Where Jittor looks for oneDNN."""
    return home / ".cache" / "jittor" / "mkl" / _FOLDER


def _holds(prefix: Path) -> bool:
    return (prefix / "lib" / _LIBRARY).is_file() and (prefix / "include" / "dnnl.hpp").is_file()


def link(home: Path, prefix: Path | None) -> bool:
    """Make oneDNN appear where Jittor would have downloaded it to.

    A complete folder that is already there is kept. Links that dangle, or lead to something that is not oneDNN, are
    replaced, each in one atomic step, so that two processes may do this at once. Real files are never removed.

    Args:
        home: Jittor's home.
        prefix: where :func:`find` found the wheel, or None.

    Returns:
        Whether Jittor will find oneDNN.
    """
    target = folder(home)
    if _holds(target):
        return True
    if prefix is None:
        return False
    if target.is_symlink():
        with contextlib.suppress(FileNotFoundError):
            target.unlink()
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name in ("lib", "include"):
            _replace_link(target / name, prefix / name)
    except OSError:
        return False
    return _holds(target)


def _replace_link(path: Path, destination: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent.parent, prefix="link-") as scratch:
        fresh = Path(scratch) / path.name
        fresh.symlink_to(destination)
        fresh.replace(path)
