"""What every test needs: Jittor started by jboat, and a count of compiled kernels."""

import os

import jboat
from jboat import registry
import jboat.fo_ol
import jboat.gm_ol
import jboat.na_ol
import jittor as jt
import pytest

jt.flags.use_cuda = int(os.environ.get("JBOAT_TEST_DEVICE") == "cuda")


class KernelCount:
    """Kernels compiled since :meth:`restart`."""

    def __init__(self):
        self._folder = os.path.join(jt.flags.cache_path, "jit")
        self.restart()

    def _all(self):
        jt.sync_all(True)
        return {name for name in os.listdir(self._folder) if name.endswith((".so", ".o", ".cc"))}

    def restart(self):
        self._before = self._all()

    def new(self):
        return sorted(name for name in self._all() - self._before if name.endswith(".so"))


@pytest.fixture
def kernels():
    return KernelCount()


@pytest.fixture
def own_registry(monkeypatch):
    """Operators that the test registers are gone after it."""

    def forget():
        registry.gm_chains.cache_clear()
        registry.na_chains.cache_clear()

    monkeypatch.setattr(registry, "_operators", dict(registry._operators))
    forget()
    yield
    monkeypatch.undo()
    forget()


@pytest.fixture(autouse=True)
def _flags_stay_as_they_were():
    before = (jt.flags.use_cuda, jt.flags.no_grad, jt.flags.auto_convert_64_to_32)
    yield
    assert (jt.flags.use_cuda, jt.flags.no_grad, jt.flags.auto_convert_64_to_32) == before
    assert jboat.__version__
