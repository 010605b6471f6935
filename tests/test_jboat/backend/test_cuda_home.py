"""One CUDA home out of several folders, by links."""

from concurrent.futures import ThreadPoolExecutor

from fake_cuda import REQUIRED, compiler, cudnn, machine, touch, wheel, whole
from jboat.backend import cuda_home, cuda_toolkit
from jboat.backend.cuda_driver import CudaDriver
import pytest


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """A machine with CUDA 13 and cuDNN 9 from wheels alone."""
    site = tmp_path / "site"
    machine(monkeypatch, driver=CudaDriver((13, 0), 1), sites=[site])
    folder = compiler(site / "nvidia" / "cu13", (13, 0))
    wheel(site, "cu13", parts=(*REQUIRED, "cufft", "cusparse"))
    touch(folder / "include" / "cccl" / "nv" / "target")
    (folder / "include" / "cub" / "cub.cuh").rename(touch(folder / "include" / "cccl" / "cub" / "cub.cuh"))
    cudnn(wheel(site, "cudnn", package="nvidia_cudnn_cu13"), 9, lib="lib", versioned=True)
    return folder


def prepared(tmp_path):
    cache = tmp_path / "cache"
    return cuda_home.prepared(cuda_toolkit.find({"PATH": str(tmp_path)}, cache), cache)


def test_the_home_has_the_shape_that_jittor_wants(tmp_path, wheels):
    found = prepared(tmp_path)
    assert found.usable, found
    home = found.nvcc.parents[1]
    assert home.parent == tmp_path / "cache" / "jboat"
    assert (home / "bin").is_symlink()
    assert not found.nvcc.is_symlink()  # Jittor would follow it out of the home
    assert found.nvcc.resolve() == wheels / "bin" / "nvcc"
    assert (home / "nvvm").resolve() == wheels / "nvvm"
    for name in (*REQUIRED, "cufft", "cusparse", "cudnn"):
        assert (home / "lib64" / f"lib{name}.so").is_file()
    assert (home / "lib64" / "libcublas.so.1").resolve() == wheels / "lib" / "libcublas.so.1"
    for half in ("infer", "train"):
        assert (home / "lib64" / f"libcudnn_ops_{half}.so").resolve().name == "libcudnn_ops.so.9"
        assert (home / "lib64" / f"libcudnn_cnn_{half}.so").resolve().name == "libcudnn_cnn.so.9"
    include = home / "include"
    assert (include / "nv" / "target").is_file()
    for name in ("cudnn.h", "npp.h", "cub/cub.cuh"):
        assert (include / name).read_text() == (cuda_home.OWN_HEADERS / name).read_text()
        assert not (include / name).is_symlink()
    assert (include / "shadowed" / "cudnn.h").read_text() == "// cuDNN's own\n"
    assert (include / "shadowed" / "cub" / "cub.cuh").resolve() == wheels / "include" / "cccl" / "cub" / "cub.cuh"
    assert (include / "cuda_runtime.h").resolve() == wheels / "include" / "cuda_runtime.h"


def test_a_toolkits_own_headers_and_libraries_come_first(tmp_path, wheels):
    toolkit = compiler(tmp_path / "toolkit", (13, 0))
    touch(toolkit / "lib64" / "libcudart.so.1")
    touch(toolkit / "include" / "cccl" / "thrust" / "of_toolkit.h")
    touch(wheels / "include" / "cccl" / "thrust" / "of_wheel.h")
    cache = tmp_path / "cache"
    found = cuda_home.prepared(cuda_toolkit.find({"CUDA_HOME": str(toolkit)}, cache), cache)
    home = found.nvcc.parents[1]
    assert (home / "bin").resolve() == toolkit / "bin"
    assert (home / "lib64" / "libcudart.so").resolve() == toolkit / "lib64" / "libcudart.so.1"
    assert (home / "include" / "cuda.h").resolve() == toolkit / "include" / "cuda.h"
    assert sorted(path.name for path in (home / "include" / "thrust").iterdir()) == ["of_toolkit.h", "of_wheel.h"]


def test_without_cudnn_none_of_it_is_linked(tmp_path, wheels):
    (wheels / "lib" / "libcufft.so.1").unlink()  # Jittor wants it for cuDNN
    (wheels.parent / "cudnn" / "include" / "cudnn_version.h").write_text("#define CUDNN_MAJOR 7\n")
    found = prepared(tmp_path)
    assert {"cudnn", "cufft"} <= set(found.absent)
    home = found.nvcc.parents[1]
    assert not [*(home / "lib64").glob("libcudnn*"), *(home / "include").glob("cudnn.h")]


def test_a_toolkit_that_jittor_can_use_needs_no_home(tmp_path, monkeypatch):
    machine(monkeypatch)
    found = cuda_toolkit.find({"CUDA_HOME": str(whole(tmp_path / "cuda"))}, tmp_path)
    assert cuda_home.prepared(found, tmp_path / "cache") is found
    assert not (tmp_path / "cache").exists()


def test_nothing_is_made_for_what_cannot_be_used(tmp_path, wheels):
    (wheels / "lib" / "libcublas.so.1").unlink()
    assert prepared(tmp_path).missing == ("cublas with its header",)
    assert not (tmp_path / "cache" / "jboat").exists()


def test_a_complete_home_is_kept(tmp_path, wheels):
    home = prepared(tmp_path).nvcc.parents[1]
    mark = touch(home / "mark")
    assert prepared(tmp_path).nvcc.parents[1] == home
    assert mark.exists()


@pytest.mark.parametrize("kind", ["dangling", "gone"])
@pytest.mark.parametrize("place", ["bin", "nvvm", "lib64/libcublas.so", "include/cuda_runtime.h", "include/npp.h"])
def test_a_home_with_a_link_that_dangles_or_is_gone_is_made_anew(tmp_path, wheels, place, kind):
    """Disks for scratch are cleared of what is old, file by file and link by link."""
    home = prepared(tmp_path).nvcc.parents[1]
    (home / place).unlink()
    if kind == "dangling":
        (home / place).symlink_to(tmp_path / "gone")
    assert prepared(tmp_path).nvcc.parents[1] == home
    assert (home / place).exists()
    assert [path.name for path in home.parent.iterdir()] == [home.name]


def test_a_link_that_dangles_in_a_toolkit_is_left_out(tmp_path, wheels):
    (wheels / "lib" / "libcusolver.so").symlink_to(tmp_path / "gone")
    (wheels / "include" / "old.h").symlink_to(tmp_path / "gone")
    home = prepared(tmp_path).nvcc.parents[1]
    mark = touch(home / "mark")
    assert prepared(tmp_path).nvcc.parents[1] == home
    assert mark.exists()


def test_libraries_of_a_prefix_that_are_not_cudas_stay_out(tmp_path, wheels):
    for name in ("libgomp.so.1", "libcurl.so", "libz.a"):
        touch(wheels / "lib" / name)
    names = [path.name for path in (prepared(tmp_path).nvcc.parents[1] / "lib64").iterdir()]
    assert not {"libgomp.so", "libcurl.so", "libz.a"} & set(names)
    assert "libcublas.so" in names


def test_two_generations_of_cudnn_are_not_mixed(tmp_path, monkeypatch):
    """The system has cuDNN 8, and PyTorch has brought cuDNN 9: the system's is complete, and used."""
    site, system = tmp_path / "site", tmp_path / "system"
    machine(monkeypatch, sites=[site])
    monkeypatch.setattr(cuda_toolkit, "SYSTEM_LIBRARIES", (str(system / "lib64"),))
    monkeypatch.setattr(cuda_toolkit, "_HEADERS", (str(system / "include"),))
    home = whole(tmp_path / "cuda", parts=(*REQUIRED, "cufft", "cusparse"), npp=False)
    cudnn(system, 8)
    cudnn(wheel(site, "cudnn", package="nvidia_cudnn_cu12"), 9, lib="lib", versioned=True)
    cache = tmp_path / "cache"
    found = cuda_home.prepared(cuda_toolkit.find({"CUDA_HOME": str(home)}, cache), cache)
    made = found.nvcc.parents[1]
    assert {path.resolve().parent for path in (made / "lib64").glob("libcudnn*")} == {system / "lib64"}
    (system / "include" / "cudnn.h").unlink()  # a library without its header is no cuDNN
    found = cuda_home.prepared(cuda_toolkit.find({"CUDA_HOME": str(home)}, cache), cache)
    made = found.nvcc.parents[1]
    assert {path.resolve().name for path in (made / "lib64").glob("libcudnn_*")} == {
        "libcudnn_ops.so.9",
        "libcudnn_cnn.so.9",
        "libcudnn_graph.so.9",
    }
    assert "CUDNN_MAJOR 9" in (made / "include" / "cudnn_version.h").read_text()


def test_what_is_installed_later_makes_another_home(tmp_path, wheels):
    before = prepared(tmp_path).nvcc
    touch(wheels / "lib" / "libcublas.so.1", "another version")
    assert prepared(tmp_path).nvcc != before


def test_many_may_make_it_at_once(tmp_path, wheels):
    with ThreadPoolExecutor(8) as pool:
        homes = set(pool.map(lambda _: prepared(tmp_path).nvcc, range(24)))
    assert len(homes) == 1
    assert homes.pop().is_file()
    assert len(list((tmp_path / "cache" / "jboat").iterdir())) == 1
