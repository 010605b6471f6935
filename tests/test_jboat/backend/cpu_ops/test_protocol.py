"""What Python says about the operations in C++, and what their headers say, is the same."""

import inspect
from pathlib import Path
import re
import typing

from jboat.backend import cpu_ops
from jboat.backend.cpu_ops import protocol
import jittor as jt
import pytest

FOLDER = Path(cpu_ops.__file__).parent
HEADERS = {path.name.removesuffix("_op.h"): path.read_text() for path in sorted(FOLDER.glob("*_op.h"))}
DECLARED = {name: f for name, f in inspect.getmembers(cpu_ops.Operations, inspect.isfunction) if name[0] != "_"}
TYPES = {
    "Var*": jt.Var,
    "vector<Var*>&&": typing.get_origin(typing.Sequence[int]),
    "vector<int>&&": typing.get_origin(typing.Sequence[int]),
    "int": int,
    "bool": bool,
    "float64": float,
    "string&&": typing.Literal,
}


def constructor(name):
    """By name of the parameters, in their order: their types, and their default values or nothing."""
    of_class = "".join(word.capitalize() for word in name.split("_")) + "Op"
    (parameters,) = re.findall(rf"^ +{of_class}\((.*)\);", HEADERS[name], flags=re.M)
    found = {}
    for parameter in re.split(r", (?=\w)", parameters):
        kind, parameter = parameter.rsplit(" ", 1)
        parameter, _, default = parameter.partition("=")
        found[parameter] = (kind, {"true": True, "false": False}.get(default, inspect.Parameter.empty))
    return found


def test_every_operation_is_declared():
    assert set(DECLARED) == set(HEADERS)
    assert set(HEADERS) <= set(dir(cpu_ops.load()))


@pytest.mark.parametrize("name", HEADERS)
def test_parameters_are_those_of_the_constructor(name):
    wanted, types = constructor(name), typing.get_type_hints(DECLARED[name])
    parameters = inspect.signature(DECLARED[name]).parameters
    assert list(parameters) == list(wanted)
    for parameter, (kind, default) in wanted.items():
        assert parameters[parameter].default == default
        assert (typing.get_origin(types[parameter]) or types[parameter]) is TYPES[kind]


@pytest.mark.parametrize(
    ("operation", "declared"), [("convolution", "ConvolutionPart"), ("cross_entropy", "ScorePart")]
)
def test_parts_have_the_same_names(operation, declared):
    source = (FOLDER / f"{operation}_op.cc").read_text()
    (names,) = re.findall(r"const names\[\] = \{(.*?)\}", source, flags=re.S)
    parts = typing.get_args(getattr(protocol, declared))
    assert tuple(re.findall(r'"(\w+)"', names)) == parts
    (enumerated,) = re.findall(
        rf"enum class {declared} {{ (.*?) }}", "".join(p.read_text() for p in FOLDER.glob("*.h"))
    )
    assert tuple(enumerated.split(", ")) == parts
