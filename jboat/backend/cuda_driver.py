"""What the NVIDIA driver of this machine can run."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

_LEAST_CAPABILITY = 75
_MAJOR, _MINOR = 75, 76  # the numbers of the attributes


class CudaDriver(NamedTuple):
    """A driver.

    Attributes:
        version: the newest CUDA that it can run, major and minor version; None where there is no driver.
        devices: how many devices it has.
        capabilities: the compute capability of each device, such as 90 for 9.0.
    """

    version: tuple[int, int] | None
    devices: int = 0
    capabilities: tuple[int, ...] = ()

    def lacks(self, toolkit: tuple[int, int] | None) -> str | None:
        """What is missing to run programs of this toolkit's version, or None."""
        if self.version is None:
            return "a CUDA driver with a device (there is no libcuda.so.1)"
        if self.devices < 1:
            return "a CUDA driver with a device (the driver sees none)"
        if toolkit is not None and self.version[0] < toolkit[0]:  # within a major version old drivers run new toolkits
            return "a driver for CUDA {}.{} or later (this one runs CUDA {}.{} at most)".format(*toolkit, *self.version)
        least = _LEAST_CAPABILITY if toolkit is not None and toolkit[0] >= 13 else 0
        if self.capabilities and max(self.capabilities) < least:
            own = max(self.capabilities) / 10
            return f"an older toolkit (CUDA 13 compiles for capability 7.5 and later, this device has {own})"
        return None


def find() -> CudaDriver:
    """Ask the driver, which starts nothing on the device."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return CudaDriver(None)
    number, count = ctypes.c_int(0), ctypes.c_int(0)
    if driver.cuDriverGetVersion(ctypes.byref(number)) != 0:
        return CudaDriver(None)
    version = (number.value // 1000, number.value % 1000 // 10)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return CudaDriver(version)
    return CudaDriver(version, count.value, tuple(_capability(driver, i) for i in range(count.value)))


def _capability(driver: ctypes.CDLL, number: int) -> int:
    device, major, minor = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_int(0)
    driver.cuDeviceGet(ctypes.byref(device), number)
    driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    return 10 * major.value + minor.value
