"""The README, Getting started and the tutorial, followed word by word; in full by ``make newcomer``."""

from pathlib import Path
import re
import subprocess

import newcomer
from newcomer import Step
import pytest

ROOT = Path(__file__).parents[1]
RUN_BY = {  # in the suite, where nothing is installed
    "make demo": "tests/test_examples/test_data_hyper_cleaning.py",
    "make docs": "tests/test_documentation.py",
    "python examples/compare_operators.py": "tests/test_examples/test_compare_operators.py",
    "python -m jboat doctor": "tests/test_trainers/test_command_line.py",
    "python -m jboat warmup": "tests/test_trainers/test_warmup.py",
    "python -m jboat warmup --example data_hyper_cleaning": "tests/test_trainers/test_warmup.py",
    "pip install .": "tests/test_packaging.py",
    "pip install '.[examples]'": "tests/test_packaging.py",
}
"""The commands of the pages, and the test of each."""


@pytest.mark.parametrize("name", newcomer.PAGES)
def test_the_program_of_a_page_runs_in_an_empty_folder(name, tmp_path):
    ran = newcomer.run_at_hand(name, tmp_path)
    assert ran.returncode == 0, ran.stderr
    said = re.sub(r"Compiling Operators\(.*?\r|\s", "", ran.stderr)  # where kernels are new
    assert (ran.stdout, said) == ("", ""), "a page's program warns of something"
    pictures = {path.name for path in tmp_path.glob("*.png")}
    shown = set(re.findall(r"\(images/(tutorial-\w+\.png)\)", (ROOT / name).read_text()))
    assert pictures == shown
    assert all((tmp_path / picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_every_command_of_a_page_is_run_by_a_test_or_says_why_not():
    found = [step for name in newcomer.PAGES for step in newcomer.steps((ROOT / name).read_text())]
    named = {step.text for step in found if step.kind == "command"}
    assert named == RUN_BY.keys() | newcomer.NOT_RUN.keys()
    assert all((ROOT / test).exists() for test in RUN_BY.values())


def test_targets_and_files_of_commands_are_there():
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), flags=re.M)
    for command in RUN_BY:
        first, second, *_ = command.split()
        assert first != "make" or second in targets, command
        assert not second.endswith(".py") or (ROOT / second).exists(), command


PAGE = """
Call `make it` or `python one.py --fast`, not `python`.

```
make it    # it takes long
```

prints

```
loss 0.50
```

```python
a = 1
```
```sh
pip install .   # or more
```
```python
b = 2
```
"""


def test_a_page_is_read_in_its_order():
    assert list(newcomer.steps(PAGE)) == [
        Step("command", "make it"),
        Step("command", "python one.py --fast"),
        Step("command", "make it"),
        Step("output", "loss 0.50\n"),
        Step("program", "a = 1\n"),
        Step("command", "pip install ."),
        Step("program", "b = 2\n"),
    ]


def followed(tmp_path, printed, fails=()):
    page, ran, programs = tmp_path / "page.md", [], []
    page.write_text(PAGE)

    def run(command):
        ran.append(command)
        if command in fails:
            raise subprocess.CalledProcessError(2, command, output="no such thing")
        return printed

    return newcomer.follow(page, run, programs.append, {}), ran, programs


def test_a_page_without_a_stumble(tmp_path):
    stumbles, ran, programs = followed(tmp_path, "first\nloss 0.505\n")
    assert stumbles == []
    assert ran == ["make it", "python one.py --fast", "pip install ."]
    assert programs == ["a = 1\nb = 2\n"]


def test_stumbles_are_told(tmp_path):
    stumbles, *_ = followed(tmp_path, "loss 0.6\n", fails={"pip install ."})
    assert stumbles == [
        "page.md: make it does not print 'loss 0.50'",
        "page.md: pip install . ended with status 2:\nno such thing",
    ]


@pytest.mark.parametrize(
    ("printed", "missing"),
    [
        ("a 1.00%\nb 2", []),
        ("a 1.01%\nx\nb 2", []),
        ("b 2\na 1.0%", ["b 2"]),
        ("a 1.1%\nb 2", ["a 1.00%", "b 2"]),
        ("", ["a 1.00%", "b 2"]),
    ],
)
def test_outputs_are_compared_line_by_line_and_numbers_to_two_percent(printed, missing):
    assert newcomer.differences("a 1.00%\n\nb 2\n", printed) == missing
