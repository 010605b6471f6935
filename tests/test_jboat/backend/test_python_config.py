"""Jittor is told where the running interpreter's headers are."""

from pathlib import Path
import re
import subprocess
import sys
import sysconfig

from jboat.backend import python_config
import pytest


def answer(program, question):
    return subprocess.run([program, question], capture_output=True, text=True, check=True).stdout.strip()


def test_the_program_answers_for_this_interpreter(tmp_path):
    program = python_config.settings(tmp_path)["python_config_path"]
    assert answer(program, "--extension-suffix") == sysconfig.get_config_var("EXT_SUFFIX")
    includes = [flag.removeprefix("-I").strip('"') for flag in answer(program, "--includes").split()]
    assert any(Path(folder, "Python.h").is_file() for folder in includes)
    version = rf'#define PY_VERSION\s+"{re.escape(sys.version.split()[0])}"'
    assert any(re.search(version, Path(folder, "patchlevel.h").read_text()) for folder in includes)


def test_it_is_written_once(tmp_path):
    (program,) = python_config.settings(tmp_path).values()
    written = Path(program).stat().st_mtime_ns
    assert python_config.settings(tmp_path) == {"python_config_path": program}
    assert Path(program).stat().st_mtime_ns == written
    assert [path.name for path in Path(program).parent.iterdir()] == [Path(program).name]


def test_headers_may_lie_below_a_folder_with_a_space(tmp_path, monkeypatch):
    folder = tmp_path / "my headers"
    folder.mkdir()
    (folder / "Python.h").touch()
    monkeypatch.setattr(python_config, "include_folders", lambda: [folder])
    (program,) = python_config.settings(tmp_path).values()
    assert answer(program, "--includes") == f'-I"{folder}"'


@pytest.mark.parametrize("name", ["my cache", "o'brien", "a(b)", "r&d"])
def test_a_cache_that_a_shell_would_misread_is_left_to_jittors_search(tmp_path, name):
    assert python_config.settings(tmp_path / name) == {}  # Jittor runs the program unquoted


def test_another_installations_program_will_do(tmp_path, monkeypatch):
    monkeypatch.setattr(python_config, "include_folders", lambda: [tmp_path / "nothing"])
    other = tmp_path / "bin" / f"python3.{sys.version_info.minor}-config"
    monkeypatch.setattr(python_config, "_where_jittor_looks", lambda: [other])
    with pytest.raises(RuntimeError, match=rf"nothing has no Python\.h.*python3\.{sys.version_info.minor}-dev"):
        python_config.settings(tmp_path)
    other.parent.mkdir()
    other.touch()
    assert python_config.settings(tmp_path) == {}
