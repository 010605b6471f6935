"""Kernels are compiled with a precompiled header, and without it where there can be none."""

from pathlib import Path
import shlex
import subprocess
from types import SimpleNamespace

from jboat.backend import precompiled_headers
import jittor as jt
import pytest

on_a_cpu = pytest.mark.skipif(jt.has_cuda or jt.flags.cc_type != "g++", reason="only g++ without CUDA uses it")


@on_a_cpu
def test_the_compiler_uses_it(tmp_path):
    (tmp_path / "kernel.cc").write_text('#define JIT 1\n#define JIT_cpu 1\n#include "fused_op.h"\nint x = 1;\n')
    flags = [f for f in shlex.split(jt.flags.cc_flags) if not f.startswith(("-l", "-L", "-Wl,", "-shared"))]
    command = [
        jt.flags.cc_path,
        *flags,
        "-g",
        "-H",
        "-S",
        str(tmp_path / "kernel.cc"),
        "-o",
        str(tmp_path / "kernel.s"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    header = Path(jt.flags.cache_path) / "jboat" / "kernels.h.gch"
    assert done.stderr.startswith(f"! {header}")


def a_jittor(folder, **changes):
    settings = {"cc_type": "g++", "cc_path": "false", "cc_flags": " -O2 -lm ", "cache_path": str(folder)}
    has_cuda = changes.pop("has_cuda", 0)
    return SimpleNamespace(has_cuda=has_cuda, flags=SimpleNamespace(**{**settings, **changes}))


@pytest.mark.parametrize(
    "changes", [{"has_cuda": 1}, {"cc_type": "clang"}, {"cc_flags": "-include mine.h"}, {}, {"cc_path": "/no/compiler"}]
)
def test_without_a_header_nothing_changes(tmp_path, changes):
    fake = a_jittor(tmp_path, **changes)
    before = fake.flags.cc_flags
    precompiled_headers.use(fake)
    assert fake.flags.cc_flags == before
    assert not list(tmp_path.glob("jboat/kernels.h*"))


def test_it_is_made_once_for_a_command(tmp_path):
    compiler = tmp_path / "compiler"
    compiler.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nfor last; do true; done\necho compiled > "$last"\n')
    compiler.chmod(0o755)
    for flags in (" -O2 -lm ", " -O2 -lm ", " -O3 ", " -O3 "):
        fake = a_jittor(tmp_path, cc_path=str(compiler), cc_flags=flags)
        precompiled_headers.use(fake)
        header = tmp_path / "jboat" / "kernels.h"
        assert fake.flags.cc_flags == f'{flags} -femit-struct-debug-baseonly -include "{header}" '
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[0] for call in calls] == ["-O2", "-O3"]
    assert "-lm" not in calls[0]
    assert sorted(path.name for path in header.parent.iterdir()) == ["kernels.h", "kernels.h.gch"]
