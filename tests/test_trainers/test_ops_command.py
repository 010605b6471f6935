"""``python -m jboat ops`` and the page made from it."""

from pathlib import Path
import re

from jboat import registry
from jboat.__main__ import main
from jboat.trainers.commands import ops
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "operators.md"


def test_every_operator_is_listed_with_options_cost_and_paper(capsys):
    assert main(["ops"]) == 0
    printed = capsys.readouterr().out
    width = max(map(len, registry.operators())) + 1
    for operator in registry.operators().values():
        if operator.cls.__module__.startswith("jboat."):
            assert f"  {operator.name:<{width}}{ops.summary(operator)}" in printed
            assert operator.cost
            assert operator.cost in printed
            assert ops.source(operator)
            assert ops.source(operator) in printed
            assert ops.option_text(operator) in printed
    assert "options: k=10, tolerance=1e-06" in printed


def test_chains_are_listed(capsys):
    assert main(["ops", "--chains"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(registry.valid_chains())
    assert "GDA+DI+NGD      PTT+RGT+RAD" in lines


def test_the_page_is_what_the_docstrings_say(capsys):
    assert main(["ops", "--markdown"]) == 0
    assert PAGE.read_text() == capsys.readouterr().out, "run: python -m jboat ops --markdown > docs/operators.md"


@pytest.mark.parametrize("name", ["CG", "DM", "VSO"])
def test_every_option_is_explained(name):
    operator = registry.operators()[name]
    for field in operator.options.__dataclass_fields__:
        assert re.search(rf"^\* `{field}` \(default `.*`\): \S", ops._option_list(operator), re.MULTILINE)


def test_boats_own_test_grid_is_inside_the_grammar():
    """The chains of the published test suite of BOAT, in its own orders."""
    dynamics = [["NGD"], ["DI", "NGD"], ["GDA", "NGD"], ["GDA", "NGD", "DI"], ["NGD", "DI", "GDA"]]
    last = ["CG", "RAD", "FD", "NS", "IGA"]
    gradients = [*last, *(f"{name},PTT" for name in last), "RAD,RGT", "PTT,RAD,RGT"]
    meta = ["IAD", "IAD,PTT", "CG,IAD", "CG,IAD,PTT", "NS,IAD", "NS,IAD,PTT", "FOA,IAD", "FOA,IAD,PTT"]
    pairs = [(gm, na.split(",")) for gm in dynamics for na in gradients]
    pairs += [(gm, na.split(",")) for gm in (["NGD"], ["NGD", "GDA"]) for na in meta]
    pairs += [(gm, [na]) for gm in (["DM"], ["DM", "NGD"], ["DM", "GDA"]) for na in ("RAD", "CG")]
    valid = set(registry.valid_chains())
    for gm, na in pairs:
        assert registry.order_chain(gm, na) in valid
