"""Start Jittor offline and quietly.

Jittor decides at import time which compiler, which CUDA and which oneDNN it uses, and fails or downloads when it
decides badly. :func:`start` settles those decisions through Jittor's own environment variables and then imports it.
A variable the user has set is never changed.

``import jboat`` starts Jittor, but in the program ``jboat`` (``python -m jboat``): many of its commands need none, and
the doctor examines machines on which it does not start. There ``jittor`` is a module that starts when it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
import contextlib
import importlib
from importlib import metadata
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
import json
import logging
import os
from pathlib import Path
import platform
import random
import ssl
import sys
from types import ModuleType
from typing import Any

from jboat.backend import (
    compiler_processes,
    core_build,
    cuda_home,
    cuda_kernels,
    cuda_toolkit,
    kernel_compiler,
    mpi,
    onednn,
    precompiled_headers,
    python_config,
    signal_actions,
)
from jboat.backend.cuda_toolkit import CudaToolkit
from jboat.backend.jittor_home import jittor_home, not_written, require_writable_home, where_jittor_can_write
import numpy as np

logger = logging.getLogger("jboat")

_CHOSEN = "JBOAT_CHOSE"
"""The variable that tells the processes started by this one which others jboat has set."""

_NEEDS_NO_START = frozenset({"__class__", "__dict__", "__spec__", "__name__", "__path__"})
"""What Python's own import asks a module for."""


class _NotStarted(ModuleType):
    """``jittor`` before its first use."""

    def __getattribute__(self, name: str) -> Any:
        if name not in _NEEDS_NO_START and type(self) is _NotStarted:
            _start_in_place(self)
        return ModuleType.__getattribute__(self, name)


_DISPATCHERS = "jboat.backend.replacements.by_device"
"""Imported when Jittor starts; were the start to come while it is imported, the start would meet half of it."""


class _FirstSubmodule:
    """Starts Jittor where a module of its package, or the dispatchers, is imported first, which is then there already.

    Python asks a package for its ``__path__`` after it has looked for the module, and would import it a second time.
    """

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """A spec whose module is the one that the start of Jittor has imported."""
        needs_jittor = name.startswith("jittor.") or name == _DISPATCHERS
        if not needs_jittor or type(sys.modules["jittor"]) is not _NotStarted:
            return None
        start()
        if name not in sys.modules:
            return None
        module = sys.modules[name]
        self._its_spec, module.__spec__ = module.__spec__, None  # Python would prefer it to what is returned
        return ModuleSpec(name, self)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module that is there."""
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        """Let it be as it was."""
        module.__spec__ = self._its_spec


def start_when_used() -> None:
    """Let ``import jittor`` give a module that starts when it is used, by the only thread of a program."""
    if "jittor" in sys.modules:
        return
    spec = find_spec("jittor")
    if spec is not None:
        sys.modules["jittor"] = module = module_from_spec(spec)
        module.__class__ = _NotStarted
        sys.meta_path.insert(0, _FirstSubmodule())


def start() -> None:
    """Start Jittor; does nothing where it is started already.

    Raises:
        RuntimeError: if Jittor's home cannot be written, Python's headers are missing, or Jittor does not compile.
    """
    found = sys.modules.get("jittor")
    if found is None:
        _start(lambda: importlib.import_module("jittor"))
    elif type(found) is _NotStarted:
        _start_in_place(found)
    else:
        _put_dispatchers()


def _start_in_place(module: ModuleType) -> None:
    """Let the module that others have imported become Jittor."""
    before = dict(module.__dict__)

    def execute() -> None:
        module.__dict__.clear()
        module.__dict__.update(before)
        sys.modules["jittor"] = module
        before["__spec__"].loader.exec_module(module)

    module.__class__ = ModuleType
    try:
        _start(execute)
    except BaseException:
        module.__dict__.clear()
        module.__dict__.update(before)
        module.__class__ = _NotStarted
        raise


def _start(import_jittor: Callable[[], object]) -> None:
    home = _with_settings()
    mpi.require(os.environ)
    with _side_effects_undone(), signal_actions.kept() as of_jittor:
        with where_jittor_can_write(home):
            import jittor_utils
        core_build.leave_downloaded_cuda_alone()
        beginning = core_build.Start(Path(jittor_utils.cache_path), metadata.version("jittor"))
        beginning.compile_what_is_missing()
        try:
            import_jittor()
        except SystemExit:  # its own files have changed, and it has rebuilt a library that it had loaded
            core_build.forget_the_import()
            import_jittor()
        beginning.write_down()
        signal_actions.watch_workers(sys.modules["jittor"], of_jittor)
        precompiled_headers.use(sys.modules["jittor"])
        kernel_compiler.use(sys.modules["jittor"])
        cuda_kernels.use(sys.modules["jittor"])
        _put_dispatchers()
        from jboat.backend import (
            batch_statistics,
            collective_order,
            rank_failures,
        )  # which need Jittor, as the next does
        from jboat.backend.cpu_ops import load

        load()
        collective_order.load()
        batch_statistics.use()
        rank_failures.use()
        compiler_processes.end(jittor_utils)


def _put_dispatchers() -> None:
    """Put dispatchers in the place of Jittor's functions before anybody imports one of these from Jittor."""
    import jboat.backend.replacements.by_device
    import jboat.backend.replacements.half_products
    import jboat.backend.stacked.places  # noqa: F401


def _with_settings() -> Path:
    """Set what Jittor reads from the environment; returns its home."""
    forget_inherited(os.environ)
    home = jittor_home()
    require_writable_home(home)
    has_onednn = True
    wants_mkl = os.environ.get("use_mkl", "1") == "1"  # noqa: SIM112
    if wants_mkl and platform.system() == "Linux" and platform.machine() == "x86_64":
        has_onednn = onednn.link(home, onednn.find())
        if not has_onednn:
            logger.warning(
                "oneDNN was not found, so matrix products and convolutions run 20 to 80 times slower. "
                "Install it with: pip install %s",
                onednn.WHEEL,
            )
    chosen = settings(os.environ, cuda=find_cuda(), has_onednn=has_onednn)
    if "python_config_path" not in os.environ:
        cache = home / ".cache" / "jittor"
        try:
            chosen |= python_config.settings(cache)
        except OSError as error:  # a full disk takes an empty file, which is all that was tried
            raise not_written(cache, error) from error
    os.environ.update(chosen, **{_CHOSEN: json.dumps(chosen)})
    return home


def find_cuda(environ: Mapping[str, str] = os.environ) -> CudaToolkit:
    """What there is of CUDA, as Jittor can use it; see :mod:`jboat.backend.cuda_toolkit`."""
    cache = jittor_home(environ) / ".cache" / "jittor"
    found = cuda_toolkit.find(environ, cache)
    try:
        return cuda_home.prepared(found, cache)
    except OSError as error:
        return found._replace(missing=(*found.missing, f"a folder of links in {cache} ({error})"))


def settings(environ: Mapping[str, str], *, cuda: CudaToolkit, has_onednn: bool) -> dict[str, str]:
    """The environment variables Jittor should start with; those in ``environ`` are left out.

    Args:
        environ: the user's environment, which wins.
        cuda: what :func:`find_cuda` found.
        has_onednn: whether Jittor will find oneDNN in its cache.
    """
    wanted = {"log_silent": "1", "cache_name": "default", **cuda_toolkit.settings(cuda)}
    if not has_onednn:
        wanted["use_mkl"] = "0"
    return {name: value for name, value in wanted.items() if name not in environ}


def forget_inherited(environ: MutableMapping[str, str]) -> None:
    """Take out what jboat itself has set in a process that started this one.

    It is not the user's, and may be wrong here: another Python has other headers, and CUDA may be there by now.
    """
    for name, value in json.loads(environ.pop(_CHOSEN, "{}")).items():
        if environ.get(name) == value:
            del environ[name]


@contextlib.contextmanager
def _side_effects_undone() -> Iterator[None]:
    """Jittor's import reseeds Python and numpy and turns HTTPS verification off; undo both."""
    python_state = random.getstate()
    https_context = ssl._create_default_https_context
    numpy_state = np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python_state)
        ssl._create_default_https_context = https_context
        np.random.set_state(numpy_state)
