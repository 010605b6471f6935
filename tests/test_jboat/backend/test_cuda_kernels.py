"""CUDA kernels are compiled with less to read, into the same code."""

from pathlib import Path
import subprocess
import sysconfig
from types import SimpleNamespace

from cuda_stubs import toolkit
from jboat.backend import cuda_home, cuda_kernels, cuda_toolkit
import jittor as jt
import pytest

ROOT = Path(__file__).parents[2]
FLAGS = " -std=c++14 -w -std=c++20 -I/headers "

SOURCE = """
#define JIT 1
#define JIT_cuda 1
#include "fused_op.h"
#include "var.h"
#include "misc/cuda_atomic.h"
#include "misc/cuda_limits.h"
#include "helper_cuda.h"
{more}
using namespace jittor;
__global__ void numbers(float* a, float b, double* c, double d, int* e, int f) {{
    cuda_atomic_mul(a, b);
    cuda_atomic_max(a, b);
    cuda_atomic_min(c, d);
    cuda_atomic_max(e, f);
    a[1] = numeric_max<float>();
}}
{kernel}
void launch(float* a) {{ fix_float(a, 3); }}
"""
HALF = """
__global__ void half_numbers(float16* a, float16 b, bfloat16* c) {
    cuda_atomic_mul(a, b);
    c[0] = c[1] * c[2];
}
"""


def a_jittor(cache, has_cuda=1):
    return SimpleNamespace(has_cuda=has_cuda, flags=SimpleNamespace(cache_path=str(cache), nvcc_flags=FLAGS))


def test_kernels_find_the_short_headers_first(tmp_path):
    fake = a_jittor(tmp_path)
    cuda_kernels.use(fake)
    folder = tmp_path / "jboat" / "kernel_headers"
    assert fake.flags.nvcc_flags.split() == [f'-I"{folder}"', "-std=c++14", "-w", "-std=c++17", "-I/headers"]
    for name in ("misc/cuda_atomic.h", "type/fp16_compute.h"):
        assert (folder / name).read_text() == (cuda_kernels.HEADERS / name).read_text()


def test_headers_of_another_version_are_replaced(tmp_path):
    old = tmp_path / "jboat" / "kernel_headers" / "misc" / "cuda_atomic.h"
    old.parent.mkdir(parents=True)
    old.write_text("// another\n")
    cuda_kernels.use(a_jittor(tmp_path))
    assert old.read_text() == (cuda_kernels.HEADERS / "misc" / "cuda_atomic.h").read_text()
    assert list(old.parent.iterdir()) == [old]


def test_nothing_changes_without_cuda_or_a_cache(tmp_path):
    (tmp_path / "jboat").write_text("a file in the folder's place")
    for fake in (a_jittor(tmp_path / "other", has_cuda=0), a_jittor(tmp_path)):
        cuda_kernels.use(fake)
        assert fake.flags.nvcc_flags == FLAGS
    assert not (tmp_path / "other").exists()


@pytest.fixture(scope="module")
def parts():
    environment = ROOT / ".venv-cuda"
    sites = [*environment.glob("lib/python3.*/site-packages"), Path(sysconfig.get_path("purelib"))]
    try:
        return toolkit.find(sites[0])
    except toolkit.CannotBuildError as reason:
        pytest.skip(f"CUDA kernels cannot be compiled here: {reason}")


def _assembly(parts, folder, source, *flags):
    (folder / "kernel.cu").write_text(source)
    jittor = Path(jt.flags.jittor_path)
    places = [jittor / "src", jittor / "extern", jittor / "extern" / "cuda" / "inc", *parts.includes]
    places += [Path(sysconfig.get_path("include")), cuda_home.OWN_HEADERS]
    command = [str(parts.home / "bin" / "nvcc"), "-ptx", "kernel.cu", "-o", "kernel.ptx", "-w", "-arch=compute_90"]
    macros = ["-DHAS_CUDA", "-DIS_CUDA", "--use_fast_math"]
    macros += [flag for flag in cuda_toolkit._CC_FLAGS_13.split() if flag.startswith("-D")]
    done = subprocess.run(
        [*command, *macros, *flags, *(f"-I{place}" for place in places)], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = (folder / "kernel.ptx").read_text().splitlines()
    return [line for line in lines if not line.startswith("//")]


@pytest.mark.parametrize(("more", "kernel"), [("", ""), ('#include "type/fp16_compute.h"', HALF)])
def test_the_code_is_the_same(parts, tmp_path, more, kernel):
    source = SOURCE.format(more=more, kernel=kernel)
    before = _assembly(parts, tmp_path, source, "-std=c++20")
    after = _assembly(parts, tmp_path, source, "-std=c++17", f"-I{cuda_kernels.HEADERS}")
    entries = [line for line in after if ".entry" in line]
    assert len(entries) >= (3 if kernel else 2)
    assert after == before
