"""What is no number is refused by name in every numeric option of every operator."""

from dataclasses import dataclass, fields
import math

from jboat import registry
from jboat.registered_operator import Operator
import jittor as jt
import numpy as np
import pytest
from small_trainers import make

NAN = math.nan
NO_NUMBERS = {
    "array": np.array([0.1, 0.2]),
    "Var": jt.array([0.1]),
    "bool": True,
    "none": None,
    "string": "0.1",
    "complex": 1j,
    "complex of numpy": np.complex64(1.0),
    "list": [0.1],
}
NO_SIZES = {"nan": NAN, "nan of numpy": np.float32(NAN), "inf": math.inf, "-inf": -math.inf, "huge": 10**400}
OPTIONS = [
    (name, field)
    for name, operator in registry.operators().items()
    for field in (fields(operator.options) if operator.options else ())
    if {"int", "float"} & set(str(field.type).split(" | "))
]


def refused(name, field, value):
    with pytest.raises((TypeError, ValueError)) as caught:
        registry.check_sections({name: {field.name: value}})
    message = str(caught.value)
    assert field.name in message, message
    assert " must " in message, message
    return message


@pytest.mark.parametrize("hostile", NO_NUMBERS)
def test_what_is_no_number_is_refused_by_name(hostile):
    assert len(OPTIONS) > 40
    for name, field in OPTIONS:
        if hostile == "none" and "None" in str(field.type):
            registry.check_sections({name: {field.name: None}})
            continue
        assert ", got " in refused(name, field, NO_NUMBERS[hostile])


@pytest.mark.parametrize("hostile", NO_SIZES)
def test_numbers_are_finite_but_for_bounds(hostile):
    for name, field in OPTIONS:
        is_bound = "None" in str(field.type) and "inf" in hostile
        if is_bound:
            registry.check_sections({name: {field.name: NO_SIZES[hostile]}})
        elif not (hostile == "huge" and "int" in str(field.type)):
            refused(name, field, NO_SIZES[hostile])


def test_integers_are_whole():
    for name, field in OPTIONS:
        if "float" not in str(field.type):
            assert ", got 2.5" in refused(name, field, 2.5)


@pytest.mark.parametrize("kinds", [("float", "int"), (float, int)])
def test_options_of_ones_own_are_held_to_the_types_that_they_tell(kinds):
    @dataclass(frozen=True)
    class Options:
        rate: float = 0.1
        count: int = 1
        weights: tuple = ()

        def __post_init__(self):
            if self.rate < 0.0 or self.count < 0:
                raise ValueError("negative")

    Options.__dataclass_fields__["rate"].type, Options.__dataclass_fields__["count"].type = kinds
    operator = Operator("Mine", "na", object, Options, "", "Mine", sections=("Mine",), section_options=Options)
    assert operator.options_in({"Mine": {"rate": np.float32(0.5), "weights": (1, 2)}}).rate == 0.5
    for name, values in (("rate", ["a", None, np.ones(2), NAN]), ("count", ["a", None, np.ones(2), 0.5, True])):
        for value in values:
            with pytest.raises((TypeError, ValueError), match=rf"solver_config\['Mine'\]\['{name}'\] must be "):
                operator.options_in({"Mine": {name: value}})


def test_a_section_that_is_changed_to_an_array_is_refused_too():
    trainer = make(na_op=["CG"], solver_config={"CG": {"tolerance": 1e-6}})
    trainer.fit({}, {}, max_steps=1)
    trainer.solver_config["CG"]["tolerance"] = np.array([0.1, 0.2])
    with pytest.raises(TypeError, match=r"solver_config\['CG'\]\['tolerance'\] must be a number, got array"):
        trainer.fit({}, {}, max_steps=1)
