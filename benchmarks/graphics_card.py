"""The card and its driver, without Jittor."""

from __future__ import annotations

import ctypes
import subprocess
from typing import NamedTuple

_QUERY = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
_PATIENCE = 30.0  # seconds


class GraphicsCard(NamedTuple):
    """What was found.

    Attributes:
        name: such as ``"NVIDIA H100 80GB HBM3"``; several are joined by commas.
        driver: the driver's version, or the newest CUDA that it knows where ``nvidia-smi`` is absent.
        memory: such as ``"81559 MiB"``, or empty.
    """

    name: str
    driver: str
    memory: str


def find() -> GraphicsCard | None:
    """Ask ``nvidia-smi``, or the driver where that is absent; None without a card that the driver can use."""
    return _by_tool() or _by_driver()


def _by_tool() -> GraphicsCard | None:
    try:
        done = subprocess.run(_QUERY, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    cards = [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines() if line.count(",") == 2]
    if done.returncode or not cards:
        return None
    names, drivers, sizes = zip(*cards, strict=True)
    return GraphicsCard(", ".join(names), drivers[0], sizes[0])


def _by_driver() -> GraphicsCard | None:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count, version, name = ctypes.c_int(0), ctypes.c_int(0), ctypes.create_string_buffer(100)
    try:
        if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
            return None
        driver.cuDriverGetVersion(ctypes.byref(version))
        driver.cuDeviceGetName(name, 100, 0)
    except AttributeError:  # another library of this name
        return None
    return GraphicsCard(name.value.decode(), f"for CUDA {version.value // 1000}.{version.value % 1000 // 10}", "")
