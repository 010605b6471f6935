"""What is compiled quickly is, for Jittor, compiled: its own ``cache_compile`` says so, on a small tree of sources."""

from pathlib import Path
import subprocess
from types import SimpleNamespace

from jboat.backend import quick_build
import jittor_utils
import pytest

pytestmark = pytest.mark.skipif(jittor_utils.cc_type != "g++", reason="only g++ is asked to")

FLAGS = '-Wall -std=c++14 -fPIC -I"{jittor}/src" -I"{cache}" -O2'


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Folders of a Jittor and its cache, whose compiler writes down how it was called."""
    of_jittor = [line for line in quick_build._HEADERS.splitlines(keepends=True) if '"' in line]
    monkeypatch.setattr(quick_build, "_HEADERS", "".join(of_jittor))  # those of C++ take a second
    calls = tmp_path / "calls"
    compiler = tmp_path / "g++"
    compiler.write_text(f'#!/bin/sh\necho "$@" >> {calls}\nexec "{jittor_utils.cc_path}" "$@"\n')
    compiler.chmod(0o755)
    jittor, cache = tmp_path / "jittor", tmp_path / "cache"
    (cache / "obj_files").mkdir(parents=True)
    for line in of_jittor:
        header = jittor / "src" / line.split('"')[1]
        header.parent.mkdir(parents=True, exist_ok=True)
        header.write_text("#pragma once\n")
    (jittor / "src" / "common.h").write_text("#pragma once\nint common = 1;\n")
    stand_in = SimpleNamespace(cc_path=str(compiler), cc_type="g++", cache_path=str(cache), cc=jittor_utils.cc)
    return SimpleNamespace(
        jittor=jittor, cache=cache, of_jittor=stand_in, calls=lambda: calls.read_text() if calls.exists() else ""
    )


def command(tree, name, text):
    source = tree.jittor / "src" / name
    source.parent.mkdir(exist_ok=True)
    source.write_text(f'#include "common.h"\n{text}\n')
    flags = FLAGS.format(jittor=tree.jittor, cache=tree.cache)
    return f'"{tree.of_jittor.cc_path}" "{source}" {flags}   -c -o "{tree.cache}/obj_files/{source.name}.o"'


def commands(tree):
    names = ("executor.cc", "ops/binary_op.cc", "opt/expr.cc", "test/test_expr.cc")
    return [command(tree, name, f"int of_{Path(name).stem}() {{ return common; }}") for name in names]


def build(tree, wanted):
    """The commands that were left to Jittor."""
    left = []
    quick_build._Build(tree.of_jittor).objects(
        lambda rest, *_: left.extend(rest), wanted, str(tree.cache), str(tree.jittor)
    )
    return left


def jittor_would_compile(tree, wanted):
    return [line for line in wanted if jittor_utils.cc.cache_compile(line, str(tree.cache), str(tree.jittor))]


def test_jittor_takes_them_for_its_own(tree, capfd):
    wanted = commands(tree)
    assert build(tree, wanted) == []
    assert "run_cmds(4/4)" in capfd.readouterr().out
    assert jittor_would_compile(tree, wanted) == []
    symbols = subprocess.run(["nm", tree.cache / "obj_files" / "executor.cc.o"], capture_output=True, text=True).stdout
    assert "of_executor" in symbols


def test_headers_are_compiled_once_and_what_no_step_runs_is_optimized_less(tree):
    build(tree, commands(tree))
    calls = tree.calls().splitlines()
    assert sum("c++-header" in call for call in calls) == 1
    by_file = {
        name: call
        for call in calls
        for name in ("executor", "binary_op", "opt/expr", "test_expr")
        if f"{name}.cc" in call
    }
    assert all("core.h" in call for call in by_file.values())
    assert {name: "-O2" in call.split() for name, call in by_file.items()} == {
        "executor": True,
        "binary_op": True,
        "opt/expr": False,
        "test_expr": False,
    }


@pytest.mark.parametrize("what", ["nothing", "source", "header", "no key", "half an object", "macro"])
def test_what_is_missing_or_has_changed_is_compiled(tree, monkeypatch, what):
    wanted = commands(tree)
    source = tree.jittor / "src" / "executor.cc"
    source.write_text(source.read_text() + "#ifdef JT_ANY\nint with_macro;\n#endif\n")
    build(tree, wanted)
    made = tree.cache / "obj_files" / "executor.cc.o"
    before = tree.calls().count("\n")
    if what == "source":
        source.write_text(source.read_text() + "int more;\n")
    elif what == "header":
        (tree.jittor / "src" / "common.h").write_text("#pragma once\nlong common = 2;\n")
    elif what == "no key":
        made.with_name("executor.cc.o.key").unlink()
    elif what == "half an object":  # as Jittor itself leaves it when it is killed: the old key is gone with the object
        made.unlink()
    elif what == "macro":
        monkeypatch.setenv("JT_ANY", "1")
    build(tree, wanted)
    compiled = tree.calls().count("\n") - before
    assert compiled == {"nothing": 0, "header": 5}.get(what, 1)
    assert jittor_would_compile(tree, wanted) == []
    symbols = subprocess.run(["nm", made], capture_output=True, text=True, check=True).stdout
    assert ("with_macro" in symbols) == (what == "macro")
    assert ("more" in symbols) == (what == "source")


def test_what_fails_is_left_to_jittor_which_quotes_the_compiler(tree):
    wanted = [*commands(tree), command(tree, "broken.cc", "int broken")]
    other = f'"/usr/bin/nvcc" "{tree.jittor}/src/kernel.cu" -c -o "{tree.cache}/obj_files/kernel.cu.o"'
    assert sorted(build(tree, [*wanted, other])) == sorted([wanted[-1], other])
    assert not (tree.cache / "obj_files" / "broken.cc.o.key").exists()
    assert jittor_would_compile(tree, wanted[:-1]) == []


def test_without_headers_that_compile_it_goes_on(tree):
    (tree.jittor / "src" / "var.h").write_text("#error var.h\n")
    wanted = commands(tree)
    assert build(tree, wanted) == []
    assert jittor_would_compile(tree, wanted) == []


def test_files_of_a_process_that_was_killed_are_removed(tree):
    old = tree.cache / "jboat" / "quick-killed" / "0"
    old.mkdir(parents=True)
    build(tree, commands(tree))
    assert not old.exists()


def test_the_first_library_is_compiled_once(tree):
    """Jittor runs its command before it can have a key, and once more for the key alone."""
    sources = []
    for name in ("cache_compile", "log"):
        source = tree.jittor / "src" / "utils" / f"{name}.cc"
        source.parent.mkdir(exist_ok=True)
        source.write_text(f'extern "C" int of_{name}() {{ return 1; }}\n')
        sources.append(f'"{source}"')
    library = tree.cache / "jit_utils_core.x.so"
    flags = f'-std=c++14 -fPIC -lstdc++ -ldl -shared -I"{tree.jittor}/src" -O2'
    line = f'"{tree.of_jittor.cc_path}" {" ".join(sources)} {flags}   -o "{library}"'
    known, tree.of_jittor.cc = tree.of_jittor.cc, None
    work = quick_build._Build(tree.of_jittor)
    assert work.before_keys(pytest.fail, line) == ""
    work.key_of_first(lambda: setattr(tree.of_jittor, "cc", known))
    assert jittor_would_compile(tree, [line]) == []
    symbols = subprocess.run(["nm", "-D", library], capture_output=True, text=True, check=True).stdout
    assert "of_cache_compile" in symbols
    assert "of_log" in symbols
    assert work.before_keys(lambda asked: asked, "g++ --version") == "g++ --version"


@pytest.mark.parametrize("change", ["clang", "another system", "a header of the user's"])
def test_another_compiler_is_left_alone(monkeypatch, change):
    functions = ("run_cmds", "run_cmd", "try_import_jit_utils_core")
    for name in functions:  # put back at the end, whatever happens
        monkeypatch.setattr(jittor_utils, name, getattr(jittor_utils, name))
    before = [getattr(jittor_utils, name) for name in functions]
    if change == "clang":
        monkeypatch.setattr(jittor_utils, "cc_type", "clang")
    elif change == "another system":
        monkeypatch.setattr(quick_build.sys, "platform", "darwin")
    else:
        monkeypatch.setenv("cc_flags", " -include mine.h ")
    quick_build.use()
    assert [getattr(jittor_utils, name) for name in functions] == before
