"""The example that a test module is named after."""

import importlib.util
from pathlib import Path
import sys

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def load():
    """The module ``examples/NAME.py`` by its name."""

    def loaded(name):
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module

    return loaded


@pytest.fixture(scope="module")
def example(request, load):
    """The module ``examples/NAME.py`` for ``test_NAME.py``."""
    return load(request.module.__name__.rpartition(".")[2].removeprefix("test_"))


@pytest.fixture
def run(example):
    """Run the example into a folder, with command-line options."""
    return lambda folder, *options: example.run(example.parser().parse_args(["--output", str(folder), *options]))
