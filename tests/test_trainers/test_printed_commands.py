"""What commands print: for readers that stop early, under every switch of Python, of operators with few words."""

from dataclasses import dataclass, field
import subprocess
import sys

from jboat import registry
from jboat.na_ol import IGA
from jboat.trainers.commands import ops
import pytest


def run(*arguments, switches=(), **options):
    command = [sys.executable, *switches, "-m", "jboat", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.parametrize("arguments", [["ops", "--markdown"], ["ops", "--chains"], ["changes"]])
def test_a_reader_that_has_read_enough(arguments):
    with run(*arguments) as process:
        process.stdout.close()  # before the first line, as with head -0
        assert process.stderr.read() == ""
    assert process.returncode == 141


@pytest.mark.parametrize("arguments", [["ops"], ["ops", "--markdown"], ["ops", "--chains"], ["--help"]])
def test_without_docstrings_and_assertions(arguments):
    with run(*arguments, switches=["-OO"]) as process:
        printed, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert len(printed.splitlines()) > 10


def test_options_in_few_words(monkeypatch):
    @dataclass(frozen=True)
    class Options:
        depths: tuple = field(default_factory=lambda: (2, 3))
        rate: float = 0.5

    @dataclass(frozen=True, slots=True)
    class Described:
        """What it is.

        Attributes:
            rate: how fast,
                per step.
        """

        rate: float = 0.5
        depth: int = 2

    monkeypatch.setattr(registry, "_operators", dict(registry._operators))
    for options in (Options, Described):
        name = f"With{options.__name__}"
        registry.register_operator("na", like="IGA", options=options)(type(name, (IGA,), {}))
    page, listing = ops.page(), ops.listing()
    assert "* `depths` (default `(2, 3)`)\n* `rate` (default `0.5`)\n" in page
    assert "* `rate` (default `0.5`): how fast, per step.\n* `depth` (default `2`)\n" in page
    assert "options: depths=(2, 3), rate=0.5" in listing
