"""Make ``import jittor`` work offline and stay quiet.

Jittor decides at import time which compiler, which CUDA and which oneDNN it uses, and fails or downloads when it
decides badly. :func:`start` settles those decisions through Jittor's own environment variables and then imports it.
A variable the user has set is never changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
import contextlib
from importlib import metadata
import json
import logging
import os
from pathlib import Path
import platform
import random
import site
import ssl
import sys
import tempfile

from jboat import precompiled_headers
from jboat.backend import core_build, cuda_home, cuda_kernels, cuda_toolkit, python_config
from jboat.backend.cuda_toolkit import CudaToolkit
import numpy as np

logger = logging.getLogger("jboat")

ONEDNN_WHEEL = "onednn-devel-cpu-gomp==2021.4.0"
_ONEDNN_FOLDER = "dnnl_lnx_2.2.0_cpu_gomp"  # the folder name Jittor's own download would have
_ONEDNN_LIBRARY = "libmkldnn.so"
_CHOSEN = "JBOAT_CHOSE"
"""The variable that tells the processes started by this one which others jboat has set."""


def jittor_home(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder under whose ``.cache/jittor`` Jittor keeps everything it compiles.

    It is JITTOR_HOME, or the one that an earlier program was started with, which Jittor remembers, or the user's home.
    """
    return Path(environ.get("JITTOR_HOME") or _remembered_home() or _users_home()).absolute()


def _users_home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        raise RuntimeError(
            "Jittor compiles its kernels below the home of the user, and this user has none: HOME is not set. "
            "Set the environment variable JITTOR_HOME to a folder you can write to."
        ) from error


def _remembered_home() -> str | None:
    try:
        remembered = json.loads((Path.home() / ".cache" / "jittor" / "config.json").read_text())
    except (OSError, ValueError, RuntimeError):
        return None
    return remembered.get("JITTOR_HOME") if isinstance(remembered, dict) else None


def require_writable_home(home: Path) -> None:
    """Fail early, and in words, where Jittor could not compile.

    Raises:
        RuntimeError: if nothing can be written below ``home/.cache/jittor``.
    """
    cache = home / ".cache" / "jittor"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError as error:
        raise _not_written(cache, error) from error


def _not_written(cache: Path, error: OSError) -> RuntimeError:
    return RuntimeError(
        f"Jittor compiles its kernels into {cache}, which cannot be written ({error}). "
        "Set the environment variable JITTOR_HOME to a folder you can write to."
    )


def find_cuda(environ: Mapping[str, str] = os.environ) -> CudaToolkit:
    """What there is of CUDA, as Jittor can use it; see :mod:`jboat.backend.cuda_toolkit`."""
    cache = jittor_home(environ) / ".cache" / "jittor"
    found = cuda_toolkit.find(environ, cache)
    try:
        return cuda_home.prepared(found, cache)
    except OSError as error:
        return found._replace(missing=(*found.missing, f"a folder of links in {cache} ({error})"))


def find_onednn() -> Path | None:
    """The prefix whose ``lib`` and ``include`` hold the oneDNN wheel, or None."""
    for prefix in (sys.prefix, site.getuserbase()):
        if _holds_onednn(Path(prefix)):
            return Path(prefix)
    return None


def onednn_folder(home: Path) -> Path:
    """Where Jittor looks for oneDNN."""
    return home / ".cache" / "jittor" / "mkl" / _ONEDNN_FOLDER


def _holds_onednn(prefix: Path) -> bool:
    return (prefix / "lib" / _ONEDNN_LIBRARY).is_file() and (prefix / "include" / "dnnl.hpp").is_file()


def link_onednn(home: Path, prefix: Path | None) -> bool:
    """Make oneDNN appear where Jittor would have downloaded it to.

    A complete folder that is already there is kept. Links that dangle, or lead to something that is not oneDNN, are
    replaced, each in one atomic step, so that two processes may do this at once. Real files are never removed.

    Args:
        home: Jittor's home.
        prefix: where :func:`find_onednn` found the wheel, or None.

    Returns:
        Whether Jittor will find oneDNN.
    """
    target = onednn_folder(home)
    if _holds_onednn(target):
        return True
    if prefix is None:
        return False
    if target.is_symlink():
        with contextlib.suppress(FileNotFoundError):
            target.unlink()
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name in ("lib", "include"):
            _replace_link(target / name, prefix / name)
    except OSError:
        return False
    return _holds_onednn(target)


def _replace_link(link: Path, destination: Path) -> None:
    with tempfile.TemporaryDirectory(dir=link.parent.parent, prefix="link-") as scratch:
        fresh = Path(scratch) / link.name
        fresh.symlink_to(destination)
        fresh.replace(link)


def settings(environ: Mapping[str, str], *, cuda: CudaToolkit, onednn: bool) -> dict[str, str]:
    """The environment variables Jittor should start with; those in ``environ`` are left out.

    Args:
        environ: the user's environment, which wins.
        cuda: what :func:`find_cuda` found.
        onednn: whether Jittor will find oneDNN in its cache.
    """
    wanted = {"log_silent": "1", "cache_name": "default", **cuda_toolkit.settings(cuda)}
    if not onednn:
        wanted["use_mkl"] = "0"
    return {name: value for name, value in wanted.items() if name not in environ}


def forget_inherited(environ: MutableMapping[str, str]) -> None:
    """Take out what jboat itself has set in a process that started this one.

    It is not the user's, and may be wrong here: another Python has other headers, and CUDA may be there by now.
    """
    for name, value in json.loads(environ.pop(_CHOSEN, "{}")).items():
        if environ.get(name) == value:
            del environ[name]


def start() -> None:
    """Prepare the environment and import Jittor; does nothing when Jittor is imported already.

    Raises:
        RuntimeError: if Jittor's home cannot be written, Python's headers are missing, or Jittor does not compile.
    """
    if "jittor" in sys.modules:
        return
    forget_inherited(os.environ)
    home = jittor_home()
    require_writable_home(home)
    onednn = True
    wants_mkl = os.environ.get("use_mkl", "1") == "1"  # noqa: SIM112
    if wants_mkl and platform.system() == "Linux" and platform.machine() == "x86_64":
        onednn = link_onednn(home, find_onednn())
        if not onednn:
            logger.warning(
                "oneDNN was not found, so matrix products and convolutions run 20 to 80 times slower. "
                "Install it with: pip install %s",
                ONEDNN_WHEEL,
            )
    chosen = settings(os.environ, cuda=find_cuda(), onednn=onednn)
    if "python_config_path" not in os.environ:
        cache = home / ".cache" / "jittor"
        try:
            chosen |= python_config.settings(cache)
        except OSError as error:  # a full disk takes an empty file, which is all that was tried
            raise _not_written(cache, error) from error
    os.environ.update(chosen, **{_CHOSEN: json.dumps(chosen)})
    with _side_effects_undone():
        _import_jittor(home)


def _import_jittor(home: Path) -> None:
    with _home_where_jittor_can_write(home):
        import jittor_utils
    core_build.leave_downloaded_cuda_alone()
    beginning = core_build.Start(Path(jittor_utils.cache_path), metadata.version("jittor"))
    beginning.compile_what_is_missing()
    try:
        import jittor
    except SystemExit:  # its own files have changed, and it has rebuilt a library that it had loaded
        core_build.forget_the_import()
        import jittor
    beginning.write_down()
    precompiled_headers.use(jittor)
    cuda_kernels.use(jittor)
    from jboat import cpu_ops  # it needs Jittor

    cpu_ops.load()  # now, since Jittor's compiler processes cannot be reached from a forked process


@contextlib.contextmanager
def _home_where_jittor_can_write(home: Path) -> Iterator[None]:
    """Jittor opens ``~/.cache/jittor`` even when JITTOR_HOME leads elsewhere; lend it that home if it must not."""
    original = os.environ.get("HOME")
    try:
        require_writable_home(Path.home())
    except RuntimeError:
        os.environ["HOME"] = str(home)
    try:
        yield
    finally:
        if original is None:
            os.environ.pop("HOME", None)
        else:
            os.environ["HOME"] = original


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
