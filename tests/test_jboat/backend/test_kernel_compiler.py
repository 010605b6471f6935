"""Kernels are compiled by a script, to the same code as by Jittor's program in Python."""

import ctypes
import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile
from types import SimpleNamespace

from jboat.backend import kernel_compiler
import jittor as jt
import pytest

SCRIPT = Path(kernel_compiler.__file__).with_name("compile_kernel.sh")
TUNER = Path(jt.flags.jittor_path, "utils", "asm_tuner.py")
PLAIN = 'extern "C" int subtract(int x, int y) {\n    return x - y;\n}\n'
REWRITTEN = PLAIN.replace("    return x - y;\n", '    //@begin replace "subl" "addl"\n    return x - y;\n    //@end\n')

on_linux = pytest.mark.skipif("compile_kernel" not in jt.flags.python_path, reason="g++ from 11 on, on Linux, uses it")


@pytest.fixture
def folder(tmp_path):
    """Whose name is as unusual as a home's may be."""
    there = tmp_path / "a home, of (somebody) $HOME"
    there.mkdir()
    return there


def compiled(folder, text, *before, script=TUNER, flags=("-O0", "-fPIC", "-shared")):
    source, library = folder / "difference_op.cc", folder / "difference_op.so"
    source.write_text(text)
    command = [*before, script, f"--cc_path={jt.flags.cc_path}", source, *flags, "-o", library]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True)


def by_script(folder, text, python=sys.executable, libraries="few", **others):
    return compiled(folder, text, "sh", SCRIPT, f"--python={python}", f"--libraries={libraries}", **others)


def of_three_and_two(folder):
    return ctypes.CDLL(str(folder / "difference_op.so")).subtract(3, 2)


@on_linux
def test_a_plain_kernel_is_compiled_without_python(folder):
    done = by_script(folder, PLAIN, python="/no/python")
    assert (done.returncode, done.stderr) == (0, "")
    assert of_three_and_two(folder) == 1
    assert sorted(path.name for path in folder.iterdir()) == ["difference_op.cc", "difference_op.so"]


@on_linux
@pytest.mark.skipif(shutil.which("objdump") is None, reason="compares with objdump")
@pytest.mark.parametrize("text", [PLAIN, REWRITTEN])
@pytest.mark.parametrize("libraries", ["few", "all"])
def test_code_and_line_numbers_are_those_of_jittors_program(tmp_path, text, libraries):
    seen = []
    ways = {
        "script": lambda *args: by_script(*args, libraries=libraries),
        "program": lambda *args: compiled(*args, sys.executable),
    }
    for name, compile_it in ways.items():
        (tmp_path / name).mkdir()
        assert compile_it(tmp_path / name, text).returncode == 0
        for what in ("--disassemble", "--dwarf=decodedline"):
            shown = subprocess.check_output(["objdump", what, tmp_path / name / "difference_op.so"], text=True)
            seen.append(shown.replace(str(tmp_path / name), "").replace("difference_op.post", "difference_op"))
    assert seen[:2] == seen[2:]
    assert "<subtract>" in seen[0]
    assert "difference_op.cc" in seen[1]


@on_linux
@pytest.mark.parametrize("libraries", ["few", "all"])
def test_what_the_process_has_loaded_for_all_is_not_linked(folder, libraries):
    of_both = PLAIN.replace("return x - y", "return x - y + std::string(y, 'a').size() - std::lround(std::exp2(y))")
    text = "#include <cmath>\n#include <iostream>\n#include <string>\n" + of_both
    flags = ["-O0", "-fPIC", "-shared", "-fopenmp", "-lstdc++", "-ldl"]
    assert by_script(folder, text, libraries=libraries, flags=flags).returncode == 0
    assert of_three_and_two(folder) == 1 + 2 - 4
    named = (folder / "difference_op.so").read_bytes()
    assert (b"libstdc++.so" in named) == (libraries == "all")
    assert b"libm.so" in named  # whose functions have versions


@on_linux
@pytest.mark.parametrize("text", [PLAIN, REWRITTEN])
def test_what_cannot_be_compiled_leaves_nothing(folder, text):
    (folder / "difference_op.so").write_text("of before")
    done = by_script(folder, text.replace("x - y", "x - z"))
    assert done.returncode != 0
    assert "‘z’" in done.stderr or "'z'" in done.stderr
    assert (folder / "difference_op.so").read_text() == "of before"
    assert sorted(path.name for path in folder.iterdir()) == ["difference_op.cc", "difference_op.so"]


@on_linux
def test_a_terminated_compiler_leaves_nothing(folder, tmp_path):
    compiler = tmp_path / "compiler"
    compiler.write_text('#!/bin/sh\nfor last; do :; done\necho half > "$last"\nkill -TERM $PPID\nsleep 0.2\n')
    compiler.chmod(0o755)
    command = [
        "sh",
        SCRIPT,
        "--python=python",
        "--libraries=all",
        "/asm_tuner.py",
        f"--cc_path={compiler}",
        folder / "a_op.cc",
    ]
    (folder / "a_op.cc").write_text(PLAIN)
    done = subprocess.run([*map(str, command), "-shared", "-o", str(folder / "a_op.so")], timeout=60)
    assert done.returncode != 0
    assert [path.name for path in folder.iterdir()] == ["a_op.cc"]


@on_linux
@pytest.mark.skipif(shutil.which("setpriv") is None or os.geteuid() != 0, reason="asks as somebody else than root")
def test_nobody_is_asked_whether_a_library_may_be_replaced():
    """mv would ask on a terminal, where the answer is awaited and nobody sees the question."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        library, compiler = folder / "a_op.so", folder / "compiler"
        compiler.write_text('#!/bin/sh\nfor last; do :; done\necho new > "$last"\n')
        library.write_text("old")
        for path, mode in ((folder, 0o777), (compiler, 0o755), (library, 0o444)):
            path.chmod(mode)
        shutil.copy(SCRIPT, folder)
        other = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", folder / SCRIPT.name]
        command = [
            *other,
            "--python=python",
            "--libraries=all",
            "/asm_tuner.py",
            f"--cc_path={compiler}",
            folder / "a_op.cc",
            "-o",
            library,
        ]
        terminal, end = os.openpty()
        os.write(terminal, b"\4")  # no answer, should one be asked for
        try:
            done = subprocess.run(
                [str(word) for word in command], stdin=end, capture_output=True, start_new_session=True, timeout=10
            )
        finally:
            os.close(terminal)
            os.close(end)
        assert (done.returncode, library.read_text()) == (0, "new\n")


@on_linux
def test_other_programs_are_handed_to_python(folder):
    done = by_script(folder, PLAIN, python=shutil.which("echo"), script="/jittor/utils/dlink_compiler.py")
    assert done.stdout.split()[0] == "/jittor/utils/dlink_compiler.py"
    assert done.stdout.endswith("difference_op.so\n")


def test_jittor_uses_it():
    newer = jt.flags.cc_type == "g++" and jt.compiler.jit_utils.get_int_version(jt.flags.cc_path)[0] >= 11
    assert (str(SCRIPT) in jt.flags.python_path) == newer
    before = jt.flags.python_path
    kernel_compiler.use(jt)
    assert jt.flags.python_path == before


OTHERS = [
    {"cc_type": "clang"},
    {"cache_path": "/home/.cache/jittor/jt1.3/g++10.2.1/py3.11"},
    {"cache_path": "/home/.cache/jittor/jt1.3/clang15.0.0/py3.11"},
    {"python_path": "/it's/python"},
    {"python_path": '/a"b/python'},
]


def a_jittor(**changes):
    usual = {
        "cc_type": "g++",
        "cc_flags": "",
        "python_path": "/a b/python",
        "cache_path": "/home/.cache/jittor/jt1.3/g++11.4.0/py3.11",
    }
    return SimpleNamespace(flags=SimpleNamespace(**{**usual, **changes}))


@pytest.mark.parametrize("changes", OTHERS)
def test_elsewhere_nothing_changes(changes):
    fake = a_jittor(**changes)
    before = fake.flags.python_path
    kernel_compiler.use(fake)
    assert fake.flags.python_path == before


@on_linux
def test_kernels_are_the_same_for_every_path_and_every_name_of_a_python(tmp_path, monkeypatch):
    (tmp_path / "python").symlink_to("/a b/python")
    (tmp_path / "sh").symlink_to("/bin/sh")
    commands = set()
    for python, path in (("/a b/python", "/usr/bin:/bin"), (str(tmp_path / "python"), f"{tmp_path}:/bin:/usr/bin")):
        monkeypatch.setenv("PATH", path)
        fake = a_jittor(python_path=python)
        kernel_compiler.use(fake)
        commands.add(fake.flags.python_path)
    assert len(commands) == 1


@on_linux
def test_a_python_with_spaces_in_its_path_is_one_word():
    fake = a_jittor()
    kernel_compiler.use(fake)
    assert fake.flags.python_path.endswith(" --python='/a b/python' --libraries=few")


@on_linux
def test_all_libraries_are_linked_where_not_all_are_loaded_for_all(monkeypatch):
    monkeypatch.setattr(kernel_compiler, "_OF_EACH_LIBRARY", ("GOMP_parallel", "of_no_library"))
    fake = a_jittor()
    kernel_compiler.use(fake)
    assert fake.flags.python_path.endswith(" --libraries=all")
