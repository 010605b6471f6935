"""What is found of CUDA, and what Jittor is told about it."""

from fake_cuda import REQUIRED, WITH_CUDNN, compiler, cudnn, machine, touch, wheel, whole
from jboat.backend import cuda_toolkit, start
from jboat.backend.cuda_driver import CudaDriver
import pytest


def find(tmp_path, **environ):
    return cuda_toolkit.find({"PATH": str(tmp_path), **environ}, tmp_path / "cache")


def test_there_may_be_nothing(tmp_path, monkeypatch):
    machine(monkeypatch)
    nothing = find(tmp_path)
    assert (nothing.missing, nothing.usable) == (("nvcc",), False)
    assert cuda_toolkit.settings(nothing) == {"nvcc_path": ""}


def test_a_whole_toolkit_is_used_as_it_lies(tmp_path, monkeypatch):
    machine(monkeypatch)
    home = whole(tmp_path / "cuda")
    found = find(tmp_path, PATH=str(home / "bin"))
    assert found.usable
    assert (found.nvcc, found.version, found.folders) == (home / "bin" / "nvcc", (12, 4), ())
    assert found.absent == ("cutt", "cutlass", "nccl", "cudnn", "cufft", "cusparse")


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    machine(monkeypatch)
    bare = find(tmp_path, CUDA_HOME=str(compiler(tmp_path / "bare")))
    assert bare.missing == ("cudart with its header", "cublas with its header", "curand with its header")
    touch(tmp_path / "program" / "bin" / "nvcc").chmod(0o755)
    assert find(tmp_path, CUDA_HOME=str(tmp_path / "program")).missing == ("nvcc",)  # it calls another nvcc
    headless = whole(tmp_path / "headless")
    (headless / "include" / "curand.h").unlink()
    (headless / "include" / "cub" / "cub.cuh").unlink()
    assert find(tmp_path, CUDA_HOME=str(headless)).missing == ("curand with its header", "the headers of CCCL")


@pytest.mark.parametrize(
    ("driver", "version", "missing"),
    [
        (CudaDriver(None), (12, 4), "a CUDA driver with a device (there is no libcuda.so.1)"),
        (CudaDriver((12, 4), 0), (12, 4), "a CUDA driver with a device (the driver sees none)"),
        (CudaDriver((12, 8), 1), (13, 0), "a driver for CUDA 13.0 or later (this one runs CUDA 12.8 at most)"),
        (CudaDriver((12, 0), 1), (12, 8), None),
        (CudaDriver((13, 0), 2), (11, 8), None),
        (CudaDriver((13, 0), 1, (75,)), (13, 0), None),
        (CudaDriver((12, 8), 1, (70,)), (12, 8), None),
        (
            CudaDriver((13, 0), 2, (61, 70)),
            (13, 0),
            "an older toolkit (CUDA 13 compiles for capability 7.5 and later, this device has 7.0)",
        ),
    ],
)
def test_the_driver_must_run_what_the_toolkit_makes(tmp_path, monkeypatch, driver, version, missing):
    machine(monkeypatch, driver=driver)
    found = find(tmp_path, CUDA_HOME=str(whole(tmp_path / "cuda", version)))
    assert found.missing == (() if missing is None else (missing,))


def test_cuda_home_comes_before_the_path_and_is_not_passed_over(tmp_path, monkeypatch):
    machine(monkeypatch)
    path = str(whole(tmp_path / "path") / "bin")
    home = whole(tmp_path / "home")
    assert find(tmp_path, PATH=path, CUDA_HOME=str(home)).nvcc == home / "bin" / "nvcc"
    (home / "lib64" / "libcublas.so").unlink()
    assert find(tmp_path, PATH=path, CUDA_HOME=str(home)).missing == ("cublas with its header",)
    elsewhere = find(tmp_path, PATH=path, CUDA_HOME=str(tmp_path / "nothing"))
    assert elsewhere.usable
    assert "CUDA_HOME is" in elsewhere.remarks[0]


def test_the_first_that_is_complete_is_taken(tmp_path, monkeypatch):
    site = tmp_path / "site"
    machine(monkeypatch, driver=CudaDriver((13, 0), 1), sites=[site])
    system = compiler(tmp_path / "system", (12, 4))
    wheels = compiler(site / "nvidia" / "cu13", (13, 0))
    wheel(site, "cu13", parts=REQUIRED)
    found = find(tmp_path, PATH=str(system / "bin"))
    assert (found.nvcc, found.version, found.usable) == (wheels / "bin" / "nvcc", (13, 0), True)
    for name in REQUIRED:
        (system / "lib64").mkdir(exist_ok=True)
        touch(system / "lib64" / f"lib{name}.so")
        touch(system / "include" / {"cudart": "cuda_runtime.h"}.get(name, f"{name}.h"))
    assert find(tmp_path, PATH=str(system / "bin")).nvcc == system / "bin" / "nvcc"


def test_wheels_of_the_same_version_complete_a_toolkit(tmp_path, monkeypatch):
    site = tmp_path / "site"
    machine(monkeypatch, sites=[site])
    (site / "nvidia").mkdir(parents=True)
    home = whole(tmp_path / "cuda", parts=("cudart",))
    assert find(tmp_path, CUDA_HOME=str(home)).missing == ("cublas with its header", "curand with its header")
    cublas = wheel(site, "cublas", package="nvidia_cublas_cu12", parts=("cublas",))
    wheel(site, "curand", package="nvidia_curand_cu12", parts=("curand",))
    wheel(site, "cu13", parts=("cublas", "curand"))
    found = find(tmp_path, CUDA_HOME=str(home))
    assert found.usable
    assert found.parts["cublas"] == cublas / "lib" / "libcublas.so.1"
    assert [folder.name for folder in found.folders] == ["cuda", "cublas", "curand"]
    assert found.remarks == (f"{site / 'nvidia' / 'cu13'} is of CUDA 13, and left out",)


def test_wheels_of_another_version_are_left_out(tmp_path, monkeypatch):
    site = tmp_path / "site"
    machine(monkeypatch, driver=CudaDriver((13, 0), 1), sites=[site])
    home = whole(tmp_path / "cuda", (13, 0), parts=("cudart", "curand"))
    wheel(site, "cublas", package="nvidia_cublas_cu12", parts=("cublas",))
    found = find(tmp_path, CUDA_HOME=str(home))
    assert found.missing == ("cublas with its header",)
    assert found.remarks == (f"{site / 'nvidia' / 'cublas'} is of CUDA 12, and left out",)


def test_the_version_is_asked_for_where_no_header_tells(tmp_path, monkeypatch):
    machine(monkeypatch)
    home = whole(tmp_path / "cuda", (11, 8))
    (home / "include" / "cuda.h").unlink()
    assert find(tmp_path, CUDA_HOME=str(home)).version == (11, 8)


@pytest.mark.parametrize(
    ("major", "version", "used", "as_it_lies"),
    [
        (8, (11, 8), True, True),
        (8, (12, 4), True, True),
        (
            9,
            (12, 4),
            True,
            False,
        ),  # Jittor knows its libraries by other names, and one of its headers has to be made up
        (9, (13, 0), True, False),
        (8, (13, 0), False, False),
        (7, (11, 8), False, True),
    ],
)
def test_generations_of_cudnn_are_told_apart(tmp_path, monkeypatch, major, version, used, as_it_lies):
    machine(monkeypatch, driver=CudaDriver((13, 0), 1))
    home = whole(tmp_path / "cuda", version, parts=(*REQUIRED, "cufft", "cusparse"))
    cudnn(home, major)
    found = find(tmp_path, CUDA_HOME=str(home))
    assert found.usable
    assert ("cudnn" not in found.absent) is used
    assert (found.folders == ()) is as_it_lies
    assert found.remarks == (() if used else ("cuDNN {} is not for CUDA {}.{}".format(major, *version),))
    assert ("conv_opt" in cuda_toolkit.settings(found)) is not used


def test_a_toolkit_without_npp_needs_a_home_of_links(tmp_path, monkeypatch):
    machine(monkeypatch)
    home = whole(tmp_path / "cuda", npp=False)
    assert find(tmp_path, CUDA_HOME=str(home)).folders == (home,)


def test_jittor_is_told_what_is_absent_and_downloads_nothing(tmp_path, monkeypatch):
    machine(monkeypatch, driver=CudaDriver((13, 0), 1))
    old = whole(tmp_path / "old", (11, 8), parts=(*REQUIRED, *WITH_CUDNN))
    cudnn(old, 8)
    for name in cuda_toolkit.DOWNLOADS:
        (tmp_path / "cache" / name / "unpacked").mkdir(parents=True)
    assert cuda_toolkit.settings(find(tmp_path, CUDA_HOME=str(old))) == {
        "nvcc_path": str(old / "bin" / "nvcc"),
        "NVIDIA_TF32_OVERRIDE": "0",
    }
    for name in cuda_toolkit.DOWNLOADS:
        (tmp_path / "cache" / name / "unpacked").rmdir()
    new = cuda_toolkit.settings(find(tmp_path, CUDA_HOME=str(whole(tmp_path / "new", (13, 0)))))
    switched = {name: new[name] for name in ("use_cutt", "use_cutlass", "use_nccl", "use_mpi", "conv_opt")}
    assert switched == {"use_cutt": "0", "use_cutlass": "0", "use_nccl": "0", "use_mpi": "0", "conv_opt": "1"}
    assert "-std=c++20" in new["cc_flags"]


@pytest.mark.parametrize(
    ("capability", "added"), [(90, None), (100, " -code=compute_90 "), (120, " -code=compute_90 ")]
)
def test_kernels_for_devices_newer_than_jittor_are_compiled_by_the_driver(tmp_path, monkeypatch, capability, added):
    machine(monkeypatch, driver=CudaDriver((13, 0), 1, (capability,)))
    found = find(tmp_path, CUDA_HOME=str(whole(tmp_path / "cuda", (13, 0))))
    assert cuda_toolkit.settings(found).get("nvcc_flags") == added


def test_a_relative_cuda_home_stays_where_it_was(tmp_path, monkeypatch):
    machine(monkeypatch)
    whole(tmp_path / "cuda")
    monkeypatch.chdir(tmp_path)
    assert find(tmp_path, CUDA_HOME="cuda").nvcc == tmp_path / "cuda" / "bin" / "nvcc"


def test_debians_toolkit_is_found_behind_its_script(tmp_path, monkeypatch):
    """/usr/bin/nvcc is a script; the toolkit's folder has the compiler alone, all else is the system's."""
    machine(monkeypatch)
    system, home = tmp_path / "usr", tmp_path / "usr" / "lib" / "nvidia-cuda-toolkit"
    script = touch(system / "bin" / "nvcc")
    script.chmod(0o755)
    assert find(tmp_path, PATH=str(script.parent)).remarks == (
        f"{script} calls an nvcc elsewhere; name the folder of its toolkit in CUDA_HOME",
    )
    whole(system, (11, 8))
    (system / "bin" / "nvcc.profile").unlink()
    compiler(home, (11, 8))
    (home / "include").rename(tmp_path / "none")
    monkeypatch.setattr(cuda_toolkit, "_FOLDERS", (str(home),))
    monkeypatch.setattr(cuda_toolkit, "SYSTEM_LIBRARIES", (str(system / "lib64"),))
    monkeypatch.setattr(cuda_toolkit, "_HEADERS", (str(system / "include"),))
    found = find(tmp_path, PATH=str(script.parent))
    assert found.usable, found
    assert (found.nvcc, found.version, found.folders) == (home / "bin" / "nvcc", (11, 8), (home,))


def test_what_the_user_has_set_is_not_changed(tmp_path, monkeypatch):
    machine(monkeypatch, driver=CudaDriver((13, 0), 1))
    found = find(tmp_path, CUDA_HOME=str(whole(tmp_path / "cuda", (13, 0))))
    mine = {"conv_opt": "0", "NVIDIA_TF32_OVERRIDE": "1", "cc_flags": "-std=c++17", "cache_name": "mine"}
    chosen = start.settings(mine, cuda=found, has_onednn=True)
    assert not set(mine) & set(chosen)
    assert chosen["nvcc_path"] == str(found.nvcc)


def test_a_driver_is_asked_for_its_version(monkeypatch):
    from jboat.backend import cuda_driver

    class Library:
        version, count, starts = 12080, 2, 0

        def cuDriverGetVersion(self, number):
            number._obj.value = self.version
            return 0

        def cuInit(self, flags):
            return self.starts

        def cuDeviceGetCount(self, number):
            number._obj.value = self.count
            return 0

        def cuDeviceGet(self, device, number):
            device._obj.value = 7 + number
            return 0

        def cuDeviceGetAttribute(self, value, attribute, device):
            value._obj.value = {75: device.value, 76: 5}[attribute]
            return 0

    library = Library()
    monkeypatch.setattr(cuda_driver.ctypes, "CDLL", lambda name: library)
    assert cuda_driver.find() == CudaDriver((12, 8), 2, (75, 85))
    library.starts = 100  # no device
    assert cuda_driver.find() == CudaDriver((12, 8), 0)

    def missing(name):
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(cuda_driver.ctypes, "CDLL", missing)
    assert cuda_driver.find() == CudaDriver(None)
