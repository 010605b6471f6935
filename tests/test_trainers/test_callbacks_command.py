"""The callbacks' page has every callback and schedule as it is in the code."""

import inspect
from pathlib import Path
import re

from jboat import callbacks
from jboat.callbacks import schedules
from jboat.trainers.commands.callbacks import section
import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "callbacks.md").read_text()


def test_the_section_is_what_the_command_prints():
    shown = PAGE[PAGE.index("## Signatures") :]
    assert shown == section() + "\n", "replace what follows '## Signatures' by what python -m jboat callbacks prints"


@pytest.mark.parametrize("name", [n for n in callbacks.__all__ if n not in ("Callback", "HOOKS", "schedules")])
def test_every_argument_is_explained(name):
    part = re.search(rf"^### {name}\n(.*?)^### ", PAGE, flags=re.M | re.S)[1]
    for argument in inspect.signature(getattr(callbacks, name)).parameters:
        assert f"* `{argument}`: " in part
    assert f"| `{name}` |" in PAGE


def test_every_schedule_is_there():
    functions = [n for n, f in vars(schedules).items() if inspect.isfunction(f) and not n.startswith("_")]
    assert functions
    assert all(f"* `{name}(" in PAGE for name in functions)
