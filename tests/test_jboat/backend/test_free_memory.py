"""What is free on a GPU is what its driver says, shared among the ranks there; what nobody knows is not 0."""

from types import SimpleNamespace

from jboat.backend import cuda_driver, free_memory, ranks
import pytest


class Driver:
    """One that has 6 GB left, of 80, or refuses to say."""

    def __init__(self, refused=0):
        self.refused = refused

    def cuMemGetInfo_v2(self, left, whole):
        left._obj.value, whole._obj.value = 6_000_000_000, 80_000_000_000
        return self.refused


@pytest.fixture
def gpu(monkeypatch):
    """A process of which Jittor has taken 20 GB of the GPU's 80."""
    given_back = []
    jittor = SimpleNamespace(
        flags=SimpleNamespace(use_cuda=1),
        gc=lambda: given_back.append(1),
        get_mem_info=lambda: SimpleNamespace(total_cuda_ram=80_000_000_000, total_cuda_used=20_000_000_000),
        get_device_count=lambda: 2,
        compile_extern=SimpleNamespace(nccl_ops=object()),
        given_back=given_back,
    )
    monkeypatch.setattr(free_memory, "jt", jittor)
    monkeypatch.setattr(cuda_driver.ctypes, "CDLL", lambda name: Driver())
    monkeypatch.delenv("OMPI_COMM_WORLD_LOCAL_SIZE", raising=False)
    return jittor


def test_other_programs_on_the_gpu_count(gpu):
    assert free_memory.free() == 6_000_000_000
    assert gpu.given_back  # before the driver was asked


@pytest.mark.parametrize("library", [Driver(refused=201), object(), OSError("no such file")])
def test_without_the_driver_it_is_what_jittor_has_not_taken(gpu, library, monkeypatch):
    def load(name):
        if isinstance(library, Exception):
            raise library
        return library

    monkeypatch.setattr(cuda_driver.ctypes, "CDLL", load)
    assert free_memory.free() == 60_000_000_000
    gpu.get_mem_info = lambda: SimpleNamespace(total_cuda_ram=0, total_cuda_used=0)
    assert free_memory.free() is None


@pytest.mark.parametrize(("nccl", "share"), [(True, 2), (False, 3)])
def test_ranks_on_the_same_gpu_share_it(gpu, nccl, share, monkeypatch):
    """Three ranks of this machine, and three of another, on two GPUs each; without NCCL all take the first."""
    monkeypatch.setattr(ranks, "size", lambda: 6)
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "3")
    gpu.compile_extern.nccl_ops = object() if nccl else None
    assert free_memory.free() == 6_000_000_000 // share


def test_a_system_that_tells_nothing(monkeypatch, tmp_path):
    for name in ("_MEMINFO", "_CGROUPS", "_OWN_CGROUP"):
        monkeypatch.setattr(free_memory, name, tmp_path / name)
    assert free_memory.free() is None
