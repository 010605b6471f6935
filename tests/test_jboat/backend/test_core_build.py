"""Jittor's core is compiled in another process, and the program that wanted it goes on.

A package that does what Jittor's import does in each case stands in for it; test_start.py has the real one.
"""

import logging
import os
import pathlib
import sys
import time

from jboat.backend import core_build
import pytest

FIRST_START = """
import os, sys
print("[i] Compiling jittor_core(1/3) used: 2.100s eta: 4.200s", end="\\r")
print("Compiling jittor_core(3/3) used: 6.100s eta: 0.000s")
"""
CHANGED_SETTINGS = """
import pathlib, sys
mark = pathlib.Path(__file__).with_name("rebuilt")
if not mark.exists():
    mark.touch()
    print("jit_utils updated, please rerun your command.")
    sys.exit(0)
mark.with_name("started").touch()
"""
FAILS = """
print("g++: fatal error: no space left")
raise RuntimeError("Run cmd failed")
"""


@pytest.fixture
def jittor(tmp_path, monkeypatch):
    """Makes a package of this name that does as it is told, in front of all others."""
    package = tmp_path / "site" / "jittor"
    package.mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(package.parent), *sys.path])

    def make(code):
        (package / "__init__.py").write_text(code)
        return package

    return make


@pytest.fixture
def cache(tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder


def compile_core(cache):
    for name in ("jit_utils_core.cpython-x.so", "jittor_core.cpython-x.so"):
        (cache / name).touch()


def start(cache):
    beginning = core_build.Start(cache, "1.3.11.0")
    beginning.compile_what_is_missing()
    return beginning


def test_a_first_start_says_how_far_it_is(cache, jittor, caplog, monkeypatch):
    jittor(FIRST_START)
    monkeypatch.setattr(core_build, "_SECONDS_BETWEEN_LINES", -1.0)
    with caplog.at_level(logging.WARNING, "jboat"):
        start(cache)
    assert caplog.messages == [
        "Jittor compiles its core for this environment: once, for two to five minutes.",
        "Jittor compiles jittor_core: 1 of 3 files (33%), about 4 s left",
        "Jittor compiles jittor_core: 3 of 3 files (100%), about 0 s left",
    ]


def test_what_has_to_be_rerun_is_rerun(cache, jittor):
    package = jittor(CHANGED_SETTINGS)
    start(cache)
    assert (package / "started").exists()


def test_after_a_start_that_succeeded_no_other_process_is_needed(cache, jittor, monkeypatch):
    jittor("")
    beginning = start(cache)
    compile_core(cache)
    monkeypatch.setenv("cuda_arch", "cu13")  # Jittor sets it as it starts with CUDA
    beginning.write_down()
    monkeypatch.delenv("cuda_arch")
    jittor(FAILS)
    start(cache)
    assert [path.suffix for path in (cache / "jboat").iterdir()] == [".json"]


@pytest.mark.parametrize("change", ["setting", "core", "version", "record"])
def test_after_a_change_another_process_looks(cache, jittor, monkeypatch, change):
    jittor("")
    compile_core(cache)
    start(cache).write_down()
    version = "1.3.11.0"
    if change == "setting":
        monkeypatch.setenv("cc_flags", " -DOTHER=1 ")
    elif change == "core":
        os.utime(cache / "jittor_core.cpython-x.so", ns=(1, 1))
    elif change == "version":
        version = "1.3.11.1"
    else:
        (record,) = (cache / "jboat").iterdir()
        record.write_text("{")
    jittor(FAILS)
    with pytest.raises(RuntimeError, match="could not be compiled"):
        core_build.Start(cache, version).compile_what_is_missing()


def test_a_compiler_that_fails_is_quoted(cache, jittor):
    jittor(FAILS)
    with pytest.raises(RuntimeError, match=r"doctor(.|\n)*no space left(.|\n)*Run cmd failed"):
        start(cache)


def test_the_other_process_is_no_rank_of_mpi(cache, jittor, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    package = jittor("import os, pathlib\npathlib.Path(__file__).with_name('seen').write_text(repr(dict(os.environ)))")
    start(cache)
    assert "OMPI_COMM_WORLD_SIZE" not in (package / "seen").read_text()


def test_a_path_among_the_folders_of_modules_does_no_harm(cache, jittor, monkeypatch):
    package = jittor(CHANGED_SETTINGS)
    monkeypatch.setattr(sys, "path", [*sys.path, package])
    start(cache)
    assert (package / "started").exists()


@pytest.mark.parametrize("kind", ["frozen", "elsewhere"])
def test_no_process_starts_itself_again(cache, jittor, monkeypatch, kind):
    if kind == "frozen":
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    else:
        monkeypatch.setenv("JBOAT_COMPILES_JITTOR", "1")
    jittor(FAILS)
    start(cache)


def test_the_other_process_ends_with_this_one(cache, jittor, monkeypatch):
    package = jittor("import os, pathlib, time\npathlib.Path(__file__).with_name('pid').write_text(str(os.getpid()))\n")
    with (package / "__init__.py").open("a") as code:
        code.write("time.sleep(60)\n")

    def interrupted(process):
        while not (package / "pid").exists():
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(core_build, "_lines", interrupted)
    with pytest.raises(KeyboardInterrupt):
        start(cache)
    with pytest.raises(ProcessLookupError):
        os.kill(int((package / "pid").read_text()), 0)


def test_other_settings_are_known_apart(cache, jittor, monkeypatch):
    """With two settings in turn, each is looked at once."""
    jittor("")
    compile_core(cache)
    start(cache).write_down()
    monkeypatch.setenv("cc_flags", " -DOTHER=1 ")
    start(cache).write_down()
    jittor(FAILS)
    start(cache)
    monkeypatch.delenv("cc_flags")
    start(cache)


def test_the_other_process_leaves_downloaded_cuda_alone(cache, jittor):
    package = jittor(
        "import pathlib\nfrom jittor_utils import install_cuda\n"
        "pathlib.Path(__file__).with_name('seen').write_text(str(install_cuda.has_installation()))"
    )
    downloaded = pathlib.Path.home() / ".cache" / "jittor" / "jtcuda"
    downloaded.mkdir(exist_ok=True)
    try:
        start(cache)
    finally:
        downloaded.rmdir()
    assert (package / "seen").read_text() == "False"
