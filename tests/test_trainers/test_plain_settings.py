"""The configuration's list of plain settings and the signatures of the trainer say the same."""

import ast
import inspect

from jboat import BilevelTrainer
from jboat.trainers.configuration import build, plain_settings
from jboat.trainers.configuration.plain_settings import FIT, PLAIN
import pytest

GIVEN_BESIDE_THE_FILE = {"ll_var", "ul_var"}
CONSTRUCTOR, IN_FIT = (
    {name: p for name, p in inspect.signature(function).parameters.items() if name != "self"}
    for function in (BilevelTrainer, BilevelTrainer.fit)
)
CHOICES = {
    name: ast.literal_eval(p.annotation.removeprefix("Literal"))
    for name, p in CONSTRUCTOR.items()
    if p.annotation.startswith("Literal")
}
DEFAULTS = {name: p.default for name, p in CONSTRUCTOR.items()}


def kind_in_a_file(name):
    """What a file holds for an argument of the constructor; None for an object, which a file names."""
    if name in CHOICES:
        return str
    kinds = {"str": str, "int": int, "float": float, "bool": bool, "Sequence[str]": list}
    parts = CONSTRUCTOR[name].annotation.split(" | ")
    found = next((kinds[part] for part in parts if part in kinds), None)
    return object if found and any(part.startswith("Literal") for part in parts) else found


def test_every_argument_of_the_constructor_may_stand_in_a_file_or_beside_it():
    assert set(CONSTRUCTOR) - set(build.KEYS) == GIVEN_BESIDE_THE_FILE
    assert {name: kind for name in CONSTRUCTOR if (kind := kind_in_a_file(name))} == PLAIN


def test_every_argument_of_fit_may_stand_in_a_file():
    assert set(IN_FIT) == {*FIT, *build.LOADERS}


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"limit_batches": 3, "fast_dev_run": True}, None),
        ({"fast_dev_run": 2}, None),
        ({"limit_batches": 0}, "fit.limit_batches must be at least 1, got 0"),
        ({"fast_dev_run": -1}, "fit.fast_dev_run must be at least 1, got -1"),
        ({"fast_dev_run": "yes"}, "fit.fast_dev_run must be an integer >= 1, got 'yes'"),
    ],
)
def test_a_short_run_may_be_asked_for_in_a_file(given, fault):
    assert plain_settings.errors({"fit": given}) == ([] if fault is None else [fault])


@pytest.mark.parametrize("name", CHOICES)
def test_choices(name):
    valid = f"{name} must be one of {', '.join(map(repr, CHOICES[name]))}"
    assert not [fault for choice in CHOICES[name] for fault in plain_settings.errors({name: choice}) if valid in fault]
    (fault,) = plain_settings.errors({name: "?"})
    assert f"{valid}, got '?'" in fault


@pytest.mark.parametrize(
    ("config", "faults"),
    [
        ({}, 0),
        ({"gm_op": ["DM"]}, 0),
        ({"gm_op": ["DI", "NGD"], "na_op": ["IAD"]}, 1),
        ({"na_op": ["RGT", "RAD"], "solver_config": {"RGT": {"truncate_iter": DEFAULTS["lower_iters"] - 1}}}, 0),
        ({"na_op": ["RGT", "RAD"], "solver_config": {"RGT": {"truncate_iter": DEFAULTS["lower_iters"]}}}, 1),
    ],
)
def test_what_is_left_out_is_the_constructors_default(config, faults):
    defaults = {name: list(DEFAULTS[name]) for name in ("gm_op", "na_op")} | {"lower_iters": DEFAULTS["lower_iters"]}
    assert plain_settings.errors(config) == plain_settings.errors({**defaults, **config})
    assert len(plain_settings.errors(config)) == faults
