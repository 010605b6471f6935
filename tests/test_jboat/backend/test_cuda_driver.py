"""Libraries of the driver's name that are of no use: each is told apart, and none ends the process."""

from pathlib import Path

from jboat.backend import cuda_driver, cuda_toolkit
from jboat.backend.cuda_driver import CudaDriver
from jboat.backend.cuda_toolkit import CudaToolkit
import pytest


class Library:
    """One that answers with the same error to all but the first question."""

    def __init__(self, version=0, start=0, count=0):
        self.version, self.start, self.count = version, start, count

    def cuDriverGetVersion(self, number):
        number._obj.value = 12040
        return self.version

    def cuInit(self, flags):
        return self.start

    def cuDeviceGetCount(self, number):
        number._obj.value = self.count
        return 0


def found(monkeypatch, library, environ=None):
    def load(name):
        if isinstance(library, Exception):
            raise library
        return library

    monkeypatch.setattr(cuda_driver.ctypes, "CDLL", load)
    return cuda_driver.find(environ or {})


@pytest.mark.parametrize(
    ("library", "told"),
    [
        (object(), "libcuda.so.1 is not NVIDIA's"),
        (OSError("libcuda.so.1: file too short"), "file too short"),  # containers started without the GPU
        (Library(version=34), "stub"),
    ],
)
def test_a_library_that_is_no_driver(monkeypatch, library, told):
    driver = found(monkeypatch, library)
    assert (driver.version, driver.devices) == (None, 0)
    assert told in driver.lacks((12, 4))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (34, "LD_LIBRARY_PATH"),
        (802, "fabric"),
        (803, "restart"),
        (804, "compatibility"),
        (999, "the driver's error 999"),
    ],
)
def test_a_driver_that_does_not_start(monkeypatch, error, told):
    driver = found(monkeypatch, Library(start=error))
    assert (driver.version, driver.devices) == ((12, 4), 0)
    assert told in driver.lacks((12, 4))


@pytest.mark.parametrize("library", [Library(start=100), Library()])
def test_devices_that_are_hidden(monkeypatch, library):
    assert found(monkeypatch, library) == CudaDriver((12, 4), 0)
    driver = found(monkeypatch, library, {"CUDA_VISIBLE_DEVICES": ""})
    assert "CUDA_VISIBLE_DEVICES is ''" in driver.lacks((12, 4))


def test_no_driver_at_all(monkeypatch):
    absent = OSError("libcuda.so.1: cannot open shared object file: No such file or directory")
    assert found(monkeypatch, absent) == CudaDriver(None)


def test_one_device_too_old_among_several_is_hidden():
    """Jittor compiles for all of them, and nvcc 13 refuses."""
    lack = CudaDriver((13, 0), 3, (90, 70, 86)).lacks((13, 0))
    assert lack is not None
    assert lack.startswith("CUDA_VISIBLE_DEVICES=0,2, or an older toolkit")
    assert CudaDriver((13, 0), 2, (90, 70)).lacks((12, 8)) is None


@pytest.mark.parametrize(
    ("version", "capabilities", "added"),
    [
        (
            (13, 0),
            (80, 120),
            " -code=compute_80 ",
        ),  # nvcc wants the architecture that Jittor names, which is the oldest
        ((12, 8), (100,), " -code=compute_90 "),
        ((11, 5), (90,), " -code=compute_86 "),
        ((11, 8), (80, 90), None),
    ],
)
def test_devices_newer_than_the_machine_code_get_what_their_driver_compiles(version, capabilities, added):
    toolkit = CudaToolkit(
        Path("nvcc"), (), version, newest_capability=max(capabilities), oldest_capability=min(capabilities)
    )
    assert cuda_toolkit.settings(toolkit).get("nvcc_flags") == added
