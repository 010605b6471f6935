"""CUDA without a GPU: stub libraries are built, Jittor starts with them, and kernels compile and load."""

import os
from pathlib import Path
import subprocess
import sys
import sysconfig

import cuda_compile
from cuda_stubs import toolkit
import fake_cuda
import pytest

ROOT = Path(__file__).parents[1]


def _interpreter():
    """That of ``make cuda-compile``, if it has been made, and its site-packages."""
    python = ROOT / ".venv-cuda" / "bin" / "python"
    if python.exists():
        return python, next(python.parents[1].glob("lib/python3.*/site-packages"))
    return Path(sys.executable), Path(sysconfig.get_path("purelib"))


def test_jittor_starts_with_cuda_and_products_where_and_softmax_compile(users_environment):
    python, site = _interpreter()
    try:
        toolkit.find(site, users_environment)
    except toolkit.CannotBuildError as reason:
        pytest.skip(f"CUDA kernels cannot be compiled here: {reason}")
    command = [str(python), str(ROOT / "tests" / "cuda_compile.py"), "--models", "operations"]
    done = subprocess.run(command, capture_output=True, text=True, env=users_environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| operations")]
    assert [(row[1], row[-1]) for row in rows] == [(name, "ok |") for name in ("start", "matmul", "where", "softmax")]
    assert all(int(row[2]) > 0 for row in rows)


def _a_toolkit(home, parts):
    fake_cuda.compiler(home, (13, 0))
    for name in parts:
        fake_cuda.part(home, name)
    for header in toolkit.HEADERS[1:]:
        (home / "include" / header).touch()
    return home


def test_what_a_toolkit_lacks_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(toolkit, "_FOLDERS", ())
    monkeypatch.setattr(toolkit, "_SYSTEM_LIBRARIES", ())
    environ = {"PATH": ""}
    with pytest.raises(toolkit.CannotBuildError, match="no nvcc"):
        toolkit.find(tmp_path, environ)
    home = _a_toolkit(tmp_path / "cuda", ("cudart", "cublas"))
    environ["CUDA_HOME"] = str(home)
    with pytest.raises(toolkit.CannotBuildError, match=r"not libcublasLt\.so, libcurand\.so$"):
        toolkit.find(tmp_path, environ)
    for name in ("cublasLt", "curand"):
        fake_cuda.part(home, name)
    parts = toolkit.find(tmp_path, environ)
    assert (parts.home, parts.version, set(parts.libraries)) == (home, 13000, set(toolkit.NEEDED))


def _library(folder, name, functions):
    source = folder / f"{name}.c"
    source.write_text("\n".join(f"int {function}(void) {{ return 7; }}" for function in functions))
    soname = f"lib{name}.so.13"
    command = ["gcc", "-shared", "-fPIC", str(source), f"-Wl,-soname,{soname}", "-o", str(folder / soname)]
    subprocess.run(command, check=True)
    return folder / soname


def test_a_stub_exports_what_the_library_does_and_launches_nothing(tmp_path):
    import ctypes

    real = _library(tmp_path, "cublas", ("cublasCreate_v2", "cublasSgemm_v2"))
    lib64 = tmp_path / "lib64"
    lib64.mkdir()
    noted = _library(lib64, "cudart", ())
    (lib64 / "libcudart.so").symlink_to(noted.name)
    runtime = tmp_path / "noted.c"
    runtime.write_text("int calls; void stub_note(const char *name) { calls++; }")
    flags = ["-shared", "-fPIC", "-Wl,-soname,libcudart.so.13", "-o"]
    subprocess.run(["gcc", *flags, str(noted), str(runtime)], check=True)
    parts = toolkit.Parts(tmp_path, 13000, (), {"cublas": real})
    toolkit._build_library("cublas", real, parts, lib64)
    calls = ctypes.CDLL(str(noted), mode=ctypes.RTLD_GLOBAL)
    stub = ctypes.CDLL(str(lib64 / "libcublas.so"))
    handle = ctypes.c_void_p()
    assert stub.cublasCreate_v2(ctypes.byref(handle)) == 0
    assert handle.value
    assert stub.cublasSgemm_v2() == 0
    assert ctypes.c_int.in_dll(calls, "calls").value == 1
    assert (lib64 / "libcublas.so").readlink() == Path("libcublas.so.13")


class Ended(BaseException):
    """In place of the end of the process."""


def test_a_failure_is_a_row_and_ends_the_process(tmp_path, monkeypatch):
    def end(status):
        raise Ended(status)

    def fails():
        raise RuntimeError("compile failed\nkernel.cc(3): error: identifier is undefined\nkernel.cc(4): note")

    for name in ("ROWS", "TABLE"):
        monkeypatch.setattr(cuda_compile, name, tmp_path / getattr(cuda_compile, name).name)
    monkeypatch.setattr(cuda_compile, "BUILD", tmp_path)
    monkeypatch.setattr(os, "_exit", end)
    (tmp_path / "mlp.log").touch()
    (tmp_path / "stubs.log").touch()
    recorder = cuda_compile.Recorder("mlp", 0.0, tmp_path)
    with pytest.raises(Ended, match=str(cuda_compile.EXIT_AFTER_FAILURE)):
        recorder.run("CG", fails)
    recorder.run("CG", fails)  # begun in this run: it is not run again
    recorder.run("RAD", lambda: (tmp_path / "kernel.so").touch())
    with pytest.raises(Ended):
        recorder.run("FD", lambda: (tmp_path / "stubs.log").write_text("bad launch: grid 0 1 1\nlaunched 1 f\n"))
    rows = cuda_compile.read()
    assert [(row["step"], row["compiled"]) for row in rows] == [("CG", 0), ("RAD", 1), ("FD", 0)]
    assert "kernel.cc(3): error: identifier is undefined" in rows[0]["result"]
    assert "note" not in rows[0]["result"].split("\n", 3)[-1]
    assert rows[1]["result"] == "ok"
    assert "bad launch: grid 0 1 1" in rows[2]["result"]
    assert "launched" not in rows[2]["result"]
    assert "1 of 3 ok" in (tmp_path / "compile.md").read_text()
