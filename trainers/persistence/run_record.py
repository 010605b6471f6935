"""What a run was started with, for whoever finds its folder later."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
import json
from pathlib import Path
import platform
import subprocess
import time
from typing import Any

from jboat.trainers.persistence.atomic_file import atomic_file


def write(folder: Path, config: Mapping[str, Any], seed: int | None) -> None:
    """Write ``configuration.json`` and ``run.json``: versions, seed, start and, in a repository, the git commit."""
    packages = ("jboat-trainer", "jittor", "numpy")
    record = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seed": seed,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: metadata.version(name) for name in packages},
        "git_commit": _commit(),
    }
    for name, content in (("configuration.json", config), ("run.json", record)):
        with atomic_file(folder / name) as file:
            json.dump(content, file, indent=1)
            file.write("\n")


def _commit() -> str | None:
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
