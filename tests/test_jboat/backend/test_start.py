"""Starting Jittor: what is decided, and that ``import jboat`` works on machines of many kinds.

The second half runs Python anew in the tests' home, with an environment that it chooses.
"""

from concurrent.futures import ThreadPoolExecutor
import json
import os
from pathlib import Path
import platform
import random
import subprocess
import sys
from types import ModuleType

import fake_cuda
from fake_cuda import touch
from jboat.backend import cuda_home, onednn, start
from jboat.backend.cuda_toolkit import CudaToolkit
from jboat.backend.jittor_home import jittor_home
import numpy as np
import pytest

LAB = Path.home()
COMPUTE = "import jboat, jittor as jt; print('product', (jt.ones((8, 8)) @ jt.ones((8, 8))).sum().item())"


def onednn_wheel(prefix):
    touch(prefix / "lib" / "libmkldnn.so")
    touch(prefix / "include" / "dnnl.hpp")
    return prefix


def test_the_home_of_an_earlier_program_is_found_as_jittor_finds_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert jittor_home({}) == tmp_path
    config = touch(tmp_path / ".cache" / "jittor" / "config.json")
    config.write_text('{"JITTOR_HOME": "/elsewhere"}')
    assert jittor_home({}) == Path("/elsewhere")
    assert jittor_home({"JITTOR_HOME": "/mine"}) == Path("/mine")
    for broken in ("", "[]"):
        config.write_text(broken)
        assert jittor_home({}) == tmp_path


def test_what_jboat_has_set_is_not_the_users_in_another_process():
    chosen = {"nvcc_path": "", "python_config_path": "/another/pythons"}
    environ = {**chosen, "JBOAT_CHOSE": json.dumps(chosen), "cc_flags": "-g"}
    environ["nvcc_path"] = "/my/nvcc"  # changed by the user since
    start.forget_inherited(environ)
    assert environ == {"nvcc_path": "/my/nvcc", "cc_flags": "-g"}


def test_a_process_started_by_another_decides_anew(lab):
    ask = (
        "import jboat, jittor, os; jittor.flags;"
        "print('python_config_path' in os.environ, os.environ['JBOAT_CHOSE'].count('nvcc_path'))"
    )
    code = f"""
import jboat, jittor, os, subprocess, sys
jittor.flags
print(os.environ['nvcc_path'] == '', flush=True)
subprocess.run([sys.executable, '-c', {ask!r}])
"""
    done = run(code)
    assert done.stdout.split() == ["True", "True", "1"], done.stdout + done.stderr


def test_a_cuda_home_that_cannot_be_written_leaves_cuda_out(tmp_path, monkeypatch):
    fake_cuda.machine(monkeypatch)
    monkeypatch.setenv("JITTOR_HOME", str(tmp_path))
    home = fake_cuda.whole(tmp_path / "cuda", npp=False)

    def refused(*args):
        raise OSError("no links here")

    monkeypatch.setattr(cuda_home, "_make", refused)
    found = start.find_cuda({"CUDA_HOME": str(home), "JITTOR_HOME": str(tmp_path)})
    assert not found.usable
    assert "no links here" in found.missing[0]


def test_settings_leave_out_what_the_user_has_set():
    none = CudaToolkit(None, ("nvcc",))
    fresh = start.settings({}, cuda=none, has_onednn=False)
    assert fresh == {"log_silent": "1", "cache_name": "default", "nvcc_path": "", "use_mkl": "0"}
    mine = {"log_silent": "0", "cache_name": "mine", "nvcc_path": "/my/nvcc", "use_mkl": "1"}
    assert start.settings(mine, cuda=none, has_onednn=False) == {}
    usable = CudaToolkit(Path("/cuda/bin/nvcc"), ())
    assert start.settings({}, cuda=usable, has_onednn=True)["nvcc_path"] == "/cuda/bin/nvcc"
    assert "use_mkl" not in start.settings({}, cuda=usable, has_onednn=True)


def test_onednn_is_linked_and_a_complete_folder_kept(tmp_path):
    home, wheel = tmp_path / "home", onednn_wheel(tmp_path / "wheel")
    assert onednn.link(home, wheel)
    folder = onednn.folder(home)
    assert (folder / "lib").resolve() == wheel / "lib"
    assert (folder / "include").resolve() == wheel / "include"
    assert onednn.link(home, onednn_wheel(tmp_path / "other"))
    assert (folder / "lib").resolve() == wheel / "lib"


@pytest.mark.parametrize("destination", ["gone", "foreign"])
@pytest.mark.parametrize("whole_folder", [False, True])
def test_a_dangling_or_foreign_link_is_replaced(tmp_path, destination, whole_folder):
    home, wheel = tmp_path / "home", onednn_wheel(tmp_path / "wheel")
    touch(tmp_path / "foreign" / "something.txt")
    folder = onednn.folder(home)
    link = folder if whole_folder else folder / "lib"
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / destination)
    assert onednn.link(home, wheel)
    assert (folder / "lib").resolve() == wheel / "lib"
    assert (tmp_path / "foreign" / "something.txt").exists()


def test_real_files_in_the_way_are_left_alone(tmp_path):
    home, wheel = tmp_path / "home", onednn_wheel(tmp_path / "wheel")
    precious = touch(onednn.folder(home) / "lib" / "precious")
    assert not onednn.link(home, wheel)
    assert precious.exists()


def test_without_the_wheel_nothing_is_linked(tmp_path):
    assert not onednn.link(tmp_path, None)


def test_many_may_link_at_once(tmp_path):
    home, wheel = tmp_path / "home", onednn_wheel(tmp_path / "wheel")
    folder = onednn.folder(home)
    folder.mkdir(parents=True)
    (folder / "lib").symlink_to(tmp_path / "gone")
    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(lambda _: onednn.link(home, wheel), range(64)))
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_importing_undoes_jittors_side_effects():
    code = (
        "import random, ssl, numpy as np; random.seed(5); np.random.seed(5); https = ssl._create_default_https_context;"
        "import jboat, jittor; jittor.flags;"
        "print(random.random(), np.random.rand(), ssl._create_default_https_context is https)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    random.seed(5)
    np.random.seed(5)
    assert out.split() == [str(random.random()), str(np.random.rand()), "True"]


def lab_environment(**changes):
    keep = {name: value for name, value in os.environ.items() if name in ("LANG", "PATH", "LD_LIBRARY_PATH")}
    return {**keep, "HOME": str(LAB), "PYTHONUSERBASE": str(LAB / "user"), **changes}


def run(code=COMPUTE, **changes):
    command = [sys.executable, *code] if isinstance(code, list) else [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=lab_environment(**changes), check=False)


def assert_computes(done):
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == ["product", "512.0"], done.stdout


@pytest.fixture(scope="module")
def lab():
    """The folder of oneDNN in the tests' home."""
    return onednn.folder(LAB)


@pytest.mark.alone  # like all that take something away from the home, which a start elsewhere would put back
def test_two_processes_may_import_at_once(lab):
    (lab / "lib").unlink()  # which another Python may have made
    with ThreadPoolExecutor(2) as pool:
        for done in pool.map(lambda _: run(), range(2)):
            assert_computes(done)
            assert "jboat" not in done.stderr
    assert (lab / "lib").resolve() == Path(sys.prefix, "lib").resolve()


def test_an_nvcc_without_libcudart(lab, tmp_path):
    fake = fake_cuda.compiler(tmp_path, (12, 2)) / "bin"
    assert_computes(run(PATH=f"{fake}{os.pathsep}{os.environ['PATH']}"))


@pytest.mark.alone
@pytest.mark.parametrize("destination", ["gone", "foreign"])
def test_a_link_that_leads_astray(lab, tmp_path, destination):
    (tmp_path / "foreign").mkdir()
    (lab / "lib").unlink()
    (lab / "lib").symlink_to(tmp_path / destination)
    assert_computes(run())
    assert (lab / "lib").resolve() == Path(sys.prefix, "lib").resolve()


@pytest.mark.alone
def test_no_onednn_wheel_gives_one_warning_and_works(lab, tmp_path):
    (lab / "lib").unlink()
    (lab / "lib").symlink_to(tmp_path / "gone")
    elsewhere = f"import os, sys; sys.prefix = {str(tmp_path)!r}; "
    done = run(f"{elsewhere}{COMPUTE}; print('use_mkl', os.environ['use_mkl'], 'product', 512.0)")
    assert_computes(done)
    assert "use_mkl 0" in done.stdout
    assert done.stderr.count("oneDNN was not found") == 1
    assert onednn.WHEEL in done.stderr
    assert_computes(run())


@pytest.mark.alone
def test_what_jittors_import_rebuilds_does_not_end_the_program(lab):
    """Jittor rebuilds a library where its own files have changed, asks for a rerun, and ends the process."""
    (key,) = LAB.glob(f".cache/jittor/jt*/*/py{platform.python_version()}/*/*/*/default/jit_utils_core*.so.key")
    key.unlink()
    assert_computes(run())
    assert key.exists()


def test_a_home_that_cannot_be_written_is_reported(tmp_path):
    obstacle = touch(tmp_path / "a-file")
    done = run(HOME=str(obstacle))
    assert done.returncode == 1
    assert "RuntimeError" in done.stderr
    assert "JITTOR_HOME" in done.stderr.splitlines()[-1]


def test_jittor_home_replaces_a_home_that_cannot_be_written(lab, tmp_path):
    assert_computes(run(HOME=str(touch(tmp_path / "a-file")), JITTOR_HOME=str(LAB)))


def test_the_users_environment_wins(lab):
    done = run(f"{COMPUTE}; import os; print(os.environ['log_silent'], 'product', 512.0)", log_silent="0")
    assert_computes(done)
    assert "0 product" in done.stdout
    assert "jittor" in (done.stdout + done.stderr).lower()


def test_doctor_reports_and_its_status_tells(lab):
    healthy = run(["-m", "jboat", "doctor"])
    assert healthy.returncode == 0, healthy.stdout + healthy.stderr
    for word in ("compiler:", "jittor:", "oneDNN:", "CUDA driver:", "CUDA:", "MPI:", "cache:", "is right"):
        assert word in healthy.stdout
    broken = run(["-m", "jboat", "doctor"], cc_path="/nowhere/g++")
    assert broken.returncode == 1
    assert "fix it:" in broken.stdout
    assert "Jittor failed" in broken.stdout


def test_the_smallest_numbers_are_not_taken_for_zero_afterwards():
    product = "print('smallest', float(np.float32(1e-30) * np.float32(1e-12)))"
    done = run(f"import jboat, jittor, numpy as np; jittor.flags; {product}")
    assert "smallest 1.0" in done.stdout, done.stdout + done.stderr


def test_in_the_program_jboat_jittor_starts_when_it_is_first_used(lab):
    """By any of a module's attributes, a submodule, or a name taken out of it, and once."""
    started = "print('jittor_core' in sys.modules, flush=True)"
    same = "print(jittor.nn is sys.modules['jittor.nn'], type(jittor).__name__)"
    for use in ("jittor.flags", "import jittor.nn", "from jittor import nn", "jittor.ones(1)", "start.start()"):
        program = (
            "import sys; sys.argv[0] = '/somewhere/bin/jboat'; import jboat, jittor; from jboat.backend import start"
        )
        done = run(f"{program}; {started}; {use}; {started}; {same}")
        assert done.stdout.split() == ["False", "True", "True", "module"], use + done.stdout + done.stderr


def test_a_start_that_fails_may_be_tried_again(lab, tmp_path):
    done = run(
        f"""
import os, sys
sys.argv[0] = 'jboat'
import jboat, jittor
home = os.environ['HOME']
os.environ['HOME'] = {str(touch(tmp_path / "a-file"))!r}
try:
    jittor.flags
except RuntimeError as error:
    print('JITTOR_HOME' in str(error))
os.environ['HOME'] = home
print(jittor.ones(3).sum().item())
"""
    )
    assert done.stdout.split() == ["True", "3.0"], done.stdout + done.stderr


def test_elsewhere_import_jboat_starts_it(lab):
    done = run("import sys, inspect, jboat; print('jittor_core' in sys.modules, len(inspect.stack()))")
    assert done.stdout.split() == ["True", "1"], done.stdout + done.stderr


def test_jittor_that_was_imported_first_is_left_as_it_is(monkeypatch):
    theirs = ModuleType("jittor")
    monkeypatch.setitem(sys.modules, "jittor", theirs)
    start.start_when_used()
    start.start()
    assert sys.modules["jittor"] is theirs
    assert type(theirs) is ModuleType
