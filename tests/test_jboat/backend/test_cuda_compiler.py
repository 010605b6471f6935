"""Compilers that do not run, say nonsense or refuse this machine's g++, and compilers in unusual places."""

import os
import re
import subprocess
import sys

from fake_cuda import REQUIRED, WITH_CUDNN, machine, touch, wheel, whole
from jboat.backend import cuda_compiler, cuda_home, cuda_toolkit, start
from jboat.backend.cuda_driver import CudaDriver
import pytest


def program(path, text):
    touch(path, text).chmod(0o755)
    return path


def find(tmp_path, **environ):
    return cuda_toolkit.find({"PATH": str(tmp_path), **environ}, tmp_path / "cache")


def test_a_compiler_is_asked_for_its_version(tmp_path):
    nvcc = program(tmp_path / "nvcc", "#!/bin/sh\necho Cuda compilation tools, release 12.4, V12.4.131\n")
    assert cuda_compiler.release(nvcc) == ((12, 4), "")


@pytest.mark.parametrize("with_header", [True, False])
@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("#!/bin/sh\nprintf '\\377\\376 nonsense'\n", "says .* nonsense"),
        ("#!/bin/sh\nexit 3\n", "says nothing, and ends with status 3"),
        ("#!/no/such/interpreter\n", "No such file"),
        (None, "Permission denied"),
    ],
)
def test_a_toolkit_whose_compiler_does_not_run_is_left_out(tmp_path, monkeypatch, script, told, with_header):
    machine(monkeypatch)
    home = whole(tmp_path / "cuda")
    if script is None:
        (home / "bin" / "nvcc").chmod(0o644)
    else:
        program(home / "bin" / "nvcc", script)
    if not with_header:
        (home / "include" / "cuda.h").unlink()
    found = find(tmp_path, CUDA_HOME=str(home))
    (missing,) = found.missing
    assert missing.startswith("an nvcc that runs (")
    assert re.search(told, missing), missing
    assert cuda_toolkit.settings(found) == {"nvcc_path": ""}


def test_a_compiler_that_hangs_is_not_waited_for(tmp_path, monkeypatch):
    def hang(command, *, timeout, **settings):
        assert timeout <= 20.0
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(cuda_compiler.subprocess, "run", hang)
    said = cuda_compiler.release(tmp_path / "nvcc")
    assert said == (None, f"{tmp_path / 'nvcc'} does not answer within 10 seconds")


@pytest.mark.parametrize(
    ("version", "environ", "missing"),
    [
        (13, {}, "a g++ of version 12 or older, named in cc_path (this one is 13, which nvcc refuses)"),
        (12, {}, None),
        (13, {"NVCC_APPEND_FLAGS": "-O3 -allow-unsupported-compiler"}, None),
        (13, {"cc_path": "/usr/bin/clang++-16"}, None),
    ],
)
def test_a_compiler_that_nvcc_refuses_is_named(tmp_path, monkeypatch, version, environ, missing):
    machine(monkeypatch)
    home = whole(tmp_path / "cuda")
    touch(
        home / "include" / "crt" / "host_config.h", "#if defined(__GNUC__)\n#if __GNUC__ > 12\n#error -- no\n#endif\n"
    )
    compiler = program(tmp_path / "g++", f"#!/bin/sh\n[ $1 = -dumpversion ] && echo {version}\n")
    found = find(tmp_path, **{"CUDA_HOME": str(home), "cc_path": str(compiler), **environ})
    assert found.missing == (() if missing is None else (missing,))


def test_folders_that_must_not_be_looked_at_are_passed_over(tmp_path, monkeypatch):
    """As another user's are, or an automounted one that is away; root may look anywhere, so that it is played here."""
    secret, wheels = whole(tmp_path / "secret"), tmp_path / "site"
    (wheels / "nvidia" / "cublas").mkdir(parents=True)
    machine(monkeypatch, sites=[wheels])
    look = os.stat

    def refuse(path, *args, **kwargs):
        if not isinstance(path, int) and str(path).startswith((f"{secret}/", f"{wheels}/nvidia/cublas/")):
            raise PermissionError(13, "Permission denied", str(path))
        return look(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", refuse)
    found = find(tmp_path, CUDA_HOME=str(secret))
    assert found.missing == ("nvcc",)
    assert str(secret) in found.remarks[0]
    assert find(tmp_path, CUDA_HOME="/" + 5000 * "x").missing == ("nvcc",)
    other = whole(tmp_path / "other")
    assert find(tmp_path, PATH=f"{secret / 'bin'}:{other / 'bin'}").nvcc == other / "bin" / "nvcc"


def test_settings_are_for_the_compiler_that_the_user_named(tmp_path, monkeypatch):
    """Not for a toolkit that lies beside it: the flags of CUDA 13 do not compile with CUDA 12."""
    machine(monkeypatch, driver=CudaDriver((13, 0), 1))
    new, old = whole(tmp_path / "new", (13, 0)), whole(tmp_path / "old", (12, 4), parts=(*REQUIRED, *WITH_CUDNN))
    touch(old / "include" / "cudnn_version.h", "#define CUDNN_MAJOR 9\n")

    def chosen(nvcc):
        environ = {"CUDA_HOME": str(new), "nvcc_path": nvcc, "JITTOR_HOME": str(tmp_path / "home")}
        return start.settings(environ, cuda=start.find_cuda(environ), has_onednn=True)

    assert chosen("") == {"log_silent": "1", "cache_name": "default"}
    by_old = chosen(str(old / "bin" / "nvcc"))
    assert "cc_flags" not in by_old
    assert (by_old["NVIDIA_TF32_OVERRIDE"], by_old["conv_opt"], by_old["cache_name"]) == ("0", "1", "default")
    assert "-std=c++20" in chosen(str(new / "bin" / "nvcc"))["cc_flags"]
    script = program(tmp_path / "scripts" / "nvcc", "#!/bin/sh\necho release 13.0\n")
    assert "-std=c++20" in chosen(str(script))["cc_flags"]
    assert not (tmp_path / "home").exists()  # a home of links would not be used


def test_a_toolkit_in_pythons_own_prefix_is_found(tmp_path, monkeypatch):
    """Conda's compiler, where the environment's Python runs without having been activated."""
    machine(monkeypatch)
    home = whole(tmp_path / "environment")
    monkeypatch.setattr(sys, "prefix", str(home))
    assert find(tmp_path).nvcc == home / "bin" / "nvcc"


def test_what_jittor_has_downloaded_earlier_is_the_last_resort(tmp_path, monkeypatch):
    machine(monkeypatch)
    downloaded = whole(tmp_path / "cache" / "jtcuda" / "cuda12.2_cudnn8_linux", (12, 2))
    assert find(tmp_path).nvcc == downloaded / "bin" / "nvcc"
    own = whole(tmp_path / "own")
    assert find(tmp_path, PATH=str(own / "bin")).nvcc == own / "bin" / "nvcc"


def test_a_toolkit_without_nvvm_is_not_complete(tmp_path, monkeypatch):
    """It is a package of its own in conda and among CUDA 13's wheels, and nvcc says ``cicc: not found`` without it."""
    site = tmp_path / "site"
    machine(monkeypatch, sites=[site])
    home = whole(tmp_path / "cuda")
    (home / "nvvm" / "bin" / "cicc").unlink()
    assert find(tmp_path, CUDA_HOME=str(home)).missing == ("NVVM, without which nvcc compiles nothing (nvvm/bin/cicc)",)
    package = wheel(site, "cuda_nvcc", package="nvidia_cuda_nvcc_cu12")
    touch(package / "include" / "crt" / "host_runtime.h")
    brought = touch(package / "nvvm" / "bin" / "cicc")
    found = cuda_home.prepared(find(tmp_path, CUDA_HOME=str(home)), tmp_path / "cache")
    assert found.usable
    assert (found.nvcc.parents[1] / "nvvm" / "bin" / "cicc").resolve() == brought
    touch(home / "bin" / "cicc")  # Debian's place
    assert find(tmp_path, CUDA_HOME=str(home)).folders == ()
