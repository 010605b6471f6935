"""The wheel and the editable install hold the same three packages and no generic name."""

from importlib.metadata import version
import os
from pathlib import Path
import shutil
import subprocess
import sys
import zipfile

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
ROOMS = ("trainers", "callbacks")
SUFFIXES = (".py", ".h", ".cc", ".sh")
IMPORTS = (
    "import jboat, jboat.trainers, jboat.callbacks, jboat.gm_ol, jboat.na_ol, jboat.trainers.commands.doctor;"
    "from jboat import BilevelTrainer; from jboat.callbacks import CSVLogger;"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory, users_environment):
    folder = tmp_path_factory.mktemp("wheel")
    shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)  # modules deleted since would go into the wheel
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, env=users_environment)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.alone
def test_the_wheel_holds_every_source_below_jboat(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert tops == {"jboat"}
    own = {p.relative_to(ROOT) for p in (ROOT / "jboat").rglob("*") if p.suffix in SUFFIXES}
    linked = {"jboat" / p.relative_to(ROOT) for room in ROOMS for p in (ROOT / room).rglob("*.py")}
    expected = {str(p) for p in own | linked}
    assert {name for name in names if name.endswith(SUFFIXES)} == expected
    assert "jboat/py.typed" in names


def test_the_wheel_works(wheel, tmp_path, users_environment):
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), str(wheel)]
    subprocess.run(command, check=True, capture_output=True, env=users_environment)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {IMPORTS} print(jboat.__file__, BilevelTrainer.__module__)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.split() == [str(tmp_path / "jboat" / "__init__.py"), "jboat.trainers.bilevel_trainer"]


def test_the_editable_install_leads_to_the_checkout(tmp_path):
    code = f"{IMPORTS} print(jboat.trainers.__file__, jboat.callbacks.__file__)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.split() == [str(ROOT / "jboat" / room / "__init__.py") for room in ROOMS]


def test_the_rooms_beside_jboat_are_links_in_it():
    assert {room: os.readlink(ROOT / "jboat" / room) for room in ROOMS} == {room: f"../{room}" for room in ROOMS}


def test_the_version_is_the_projects():
    import jboat

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert jboat.__version__ == project["version"] == version("jboat-trainer")
    assert f"\nversion: {project['version']}\n" in (ROOT / "CITATION.cff").read_text()
