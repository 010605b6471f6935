"""What the NVIDIA driver of this machine can run."""

from __future__ import annotations

from collections.abc import Mapping
import ctypes
import os
from typing import NamedTuple

_LIBRARY = "libcuda.so.1"
_ABSENT = f"{_LIBRARY}: cannot open shared object file: No such file"
_NO_DEVICE = 100
_ERRORS = {
    34: f"{_LIBRARY} is a toolkit's stub: take its folder out of LD_LIBRARY_PATH",
    802: "the driver is not ready: on machines with NVSwitch the fabric manager has to run",
    803: "the driver's library and its kernel module are of different versions: restart the machine or container",
    804: f"{_LIBRARY} is of a compatibility package that this device cannot use: take it out of LD_LIBRARY_PATH",
}
_LEAST_CAPABILITY = 75
_MAJOR, _MINOR = 75, 76  # the numbers of the attributes


class CudaDriver(NamedTuple):
    """A driver.

    Attributes:
        version: the newest CUDA that it can run, major and minor version; None where there is no driver.
        devices: how many devices it has.
        capabilities: the compute capability of each device, such as 90 for 9.0.
        problem: why the driver is of no use where it is there, or why it shows no device; empty where nothing tells.
    """

    version: tuple[int, int] | None
    devices: int = 0
    capabilities: tuple[int, ...] = ()
    problem: str = ""

    def lacks(self, toolkit: tuple[int, int] | None) -> str | None:
        """What is missing to run programs of this toolkit's version, or None."""
        if self.version is None:
            return f"a CUDA driver with a device ({self.problem or f'there is no {_LIBRARY}'})"
        if self.devices < 1:
            return f"a CUDA driver with a device ({self.problem or 'the driver sees none'})"
        if toolkit is not None and self.version[0] < toolkit[0]:  # within a major version old drivers run new toolkits
            return "a driver for CUDA {}.{} or later (this one runs CUDA {}.{} at most)".format(*toolkit, *self.version)
        least = _LEAST_CAPABILITY if toolkit is not None and toolkit[0] >= 13 else 0
        if self.capabilities and max(self.capabilities) < least:
            own = max(self.capabilities) / 10
            return f"an older toolkit (CUDA 13 compiles for capability 7.5 and later, this device has {own})"
        if self.capabilities and min(self.capabilities) < least:  # Jittor compiles for all that it sees
            numbers = ",".join(str(i) for i, own in enumerate(self.capabilities) if own >= least)
            return (
                f"CUDA_VISIBLE_DEVICES={numbers}, or an older toolkit (CUDA 13 compiles for capability 7.5 and later)"
            )
        return None


def find(environ: Mapping[str, str] = os.environ) -> CudaDriver:
    """Ask the driver, which starts nothing on the device.

    Args:
        environ: the environment, in which CUDA_VISIBLE_DEVICES may hide devices.
    """
    try:
        driver = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        return CudaDriver(None, problem="" if str(error).startswith(_ABSENT) else str(error))
    number, count = ctypes.c_int(0), ctypes.c_int(0)
    try:
        refused = driver.cuDriverGetVersion(ctypes.byref(number))
        if refused:
            return CudaDriver(None, problem=_told(refused))
        version = (number.value // 1000, number.value % 1000 // 10)
        refused = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
        if refused or not count.value:
            return CudaDriver(version, problem=_told(refused or _NO_DEVICE, environ.get("CUDA_VISIBLE_DEVICES")))
        return CudaDriver(version, count.value, tuple(_capability(driver, i) for i in range(count.value)))
    except AttributeError as error:  # another library of this name
        return CudaDriver(None, problem=f"{_LIBRARY} is not NVIDIA's: {error}")


def free_memory() -> int | None:
    """What no program uses of the memory of the GPU that this thread computes on, in bytes; None where nobody says."""
    left, whole = ctypes.c_size_t(0), ctypes.c_size_t(0)
    try:
        refused = ctypes.CDLL(_LIBRARY).cuMemGetInfo_v2(ctypes.byref(left), ctypes.byref(whole))
    except (OSError, AttributeError):  # no driver, or another library of this name
        return None
    return None if refused else left.value


def _told(error: int, visible: str | None = None) -> str:
    """What an error of the driver means."""
    if error == _NO_DEVICE:
        return "" if visible is None else f"the driver shows none, and CUDA_VISIBLE_DEVICES is {visible!r}"
    return _ERRORS.get(error, f"the driver's error {error}")


def _capability(driver: ctypes.CDLL, number: int) -> int:
    device, major, minor = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_int(0)
    driver.cuDeviceGet(ctypes.byref(device), number)
    driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    return 10 * major.value + minor.value
