"""Starts and the doctor where there is no home, no space, or a CUDA that Jittor has downloaded."""

import os
from pathlib import Path
import subprocess
import sys

import fake_cuda
from jboat.backend import cuda_driver, python_config, start
from jboat.backend.cuda_driver import CudaDriver
from jboat.trainers.commands import doctor
import pytest

LAB = Path.home()
NO_USER = """
import os, pwd
os.environ.pop("HOME")
def nobody(number): raise KeyError(number)
pwd.getpwuid = nobody
"""


def run(*arguments, **changes):
    keep = {name: value for name, value in os.environ.items() if name in ("LANG", "PATH", "LD_LIBRARY_PATH")}
    environment = {**keep, "HOME": str(LAB), "PYTHONUSERBASE": str(LAB / "user"), **changes}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False)


def test_a_user_without_a_home_is_told_what_to_set():
    """A container that runs as a number which nobody has."""
    done = run("-c", f"{NO_USER}import jboat, jittor; jittor.flags")
    assert done.returncode == 1
    assert "JITTOR_HOME" in done.stderr.splitlines()[-1]


def test_the_doctor_tells_a_user_without_a_home():
    code = f"{NO_USER}import sys, runpy; sys.argv[1:] = ['doctor']; sys.orig_argv[1:] = ['-m', 'jboat', 'doctor']\n"
    code += "sys.argv[0] = '-m'; runpy.run_module('jboat', run_name='__main__', alter_sys=True)"
    done = run("-c", code)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "fix it: export JITTOR_HOME" in done.stdout


def test_a_full_disk_is_told_as_one(monkeypatch):
    def full(cache):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(python_config, "settings", full)
    monkeypatch.delenv("python_config_path", raising=False)
    with pytest.raises(RuntimeError, match=r"No space left on device.*JITTOR_HOME"):
        start._with_settings()


@pytest.mark.parametrize("options", [["-u"], ["-X", "dev", "-W", "ignore"], ["-um"]])
def test_the_doctor_comes_with_any_of_pythons_options(options):
    """It has to report where the import of Jittor fails."""
    arguments = [*options, "jboat"] if options == ["-um"] else [*options, "-m", "jboat"]
    done = run(*arguments, "doctor", cc_path="/nowhere/g++")
    assert done.returncode == 1
    assert "compiler:    not found" in done.stdout, done.stderr


@pytest.mark.alone
def test_a_cuda_that_jittor_has_downloaded_does_not_start_the_program_again():
    """Where there is one, Jittor's import replaces the process, and downloads another for a newer driver."""
    import jittor_utils
    from jittor_utils import install_cuda

    (LAB / ".cache" / "jittor" / "jtcuda").mkdir(exist_ok=True)
    try:
        assert jittor_utils.home() == str(LAB)
        assert not install_cuda.has_installation()
    finally:
        (LAB / ".cache" / "jittor" / "jtcuda").rmdir()


@pytest.mark.parametrize(
    ("driver", "fix"),
    [
        (CudaDriver(None), None),
        (CudaDriver((12, 4), 0), None),
        (CudaDriver((12, 4), 1), "install the toolkit of CUDA 12 from your system"),
        (CudaDriver((13, 0), 1), "pip install 'jboat-trainer[cuda13]'"),
    ],
)
def test_the_doctor_names_a_compiler_that_the_driver_can_run(tmp_path, monkeypatch, capsys, driver, fix):
    fake_cuda.machine(monkeypatch)
    monkeypatch.setattr(cuda_driver, "find", lambda: driver)
    monkeypatch.delenv("nvcc_path", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "gone"))
    doctor._report_cuda()
    said = capsys.readouterr().out
    assert "not used: there is no nvcc" in said
    assert f"CUDA_HOME is {tmp_path / 'gone'}" in said
    told = [line.strip().removeprefix("fix it: ") for line in said.splitlines() if "fix it" in line]
    assert told == ([] if fix is None else told)
    assert all(line.startswith(fix) for line in told)
    assert bool(told) is (fix is not None)


def test_what_the_doctor_knows_of_a_driver_is_said(monkeypatch, capsys):
    fake_cuda.machine(monkeypatch)
    monkeypatch.setattr(cuda_driver, "find", lambda: CudaDriver((12, 4), 0, problem="the driver's error 999"))
    monkeypatch.delenv("nvcc_path", raising=False)
    doctor._report_cuda()
    assert "0 devices, CUDA 12.4; the driver's error 999" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("script", "told"), [("#!/no/such/interpreter\n", "does not run"), ("#!/bin/sh\nprintf '\\377'\n", "at ")]
)
def test_the_doctor_goes_on_where_the_compiler_is_none(tmp_path, monkeypatch, capsys, script, told):
    compiler = fake_cuda.touch(tmp_path / "g++", script)
    compiler.chmod(0o755)
    monkeypatch.setenv("cc_path", str(compiler))
    doctor._report_compiler()
    assert told in capsys.readouterr().out
