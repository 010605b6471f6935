"""``python -m jboat ops --recommend`` says what the pages with measurements say, and names methods that there are."""

from pathlib import Path
import re

from jboat import registry
from jboat.__main__ import main
from jboat.trainers.commands import ops, recommend  # noqa: F401  (ops registers the operators)
import pytest

DOCS = Path(__file__).parents[2] / "docs"
NUMBER = re.compile(r"(?<![\w.])\d+\.\d+(?:e[+-]\d+)?")


def printed(capsys, *arguments):
    assert main(["ops", "--recommend", *arguments]) == 0
    return capsys.readouterr().out


def test_the_page_is_what_the_command_prints(capsys):
    page = (DOCS / "which-method.md").read_text()
    assert page == printed(capsys, "--markdown"), (
        "run: python -m jboat ops --recommend --markdown > docs/which-method.md"
    )


def test_every_row_is_printed_with_its_page(capsys):
    text = " ".join(printed(capsys).split())
    for advice in recommend.ADVICE:
        assert " ".join(f"{advice.problem} take: {advice.take} measured: {advice.found}".split()) in text
        if advice.source:
            assert f"(docs/{advice.source})" in text


@pytest.mark.parametrize(
    ("page", "row", "column", "number"),
    [
        ("performance.md", "| l2 | RAD | 10 |", 0, "16.7 ms"),
        ("performance.md", "| l2 | RAD | 50 |", 0, "93.4 ms"),
        ("performance.md", "| l2 | RGT+RAD | 50 |", 0, "65.1 ms"),
        ("performance.md", "| l2 | CG | 50 |", 0, "61.5 ms"),
        ("performance.md", "| l2 | NS | 50 |", 0, "63.4 ms"),
        ("performance.md", "| l2 | CG | 10 |", 0, "17.2"),
        ("performance.md", "| l2 | NS | 10 |", 0, "19.6"),
        ("performance.md", "| l2 | IGA | 10 |", 0, "11.0"),
        ("performance.md", "| l2 | CG | 50 |", 7, "120 MB"),
        ("performance.md", "| l2 | NS | 50 |", 7, "121 MB"),
        ("performance.md", "| l2 | RAD | 50 |", 7, "135 MB"),
        ("performance.md", "| l2 | RAD | 10 |", 7, "126 MB"),
        ("performance.md", "| cleaning | RAD | 10 |", 0, "33.8"),
        ("performance.md", "| cleaning | IGA | 10 |", 0, "21.3"),
        ("performance.md", "| cnn | CG | 5 |", 0, "119.0 ms"),
        ("performance.md", "| cnn | RAD | 5 |", 0, "63.9"),
        ("performance.md", "| mlp | FD | 10 |", 0, "368.5 ms"),
        ("performance.md", "| mlp | IGA | 10 |", 0, "377.7 ms"),
        ("performance.md", "| mlp | MESO | 10 |", 0, "134.1 ms"),
        ("performance.md", "| mlp | RAD | 10 |", 0, "656.5 ms"),
        ("performance.md", "| mlp | FD | 10 |", 7, "196 MB"),
        ("performance.md", "| mlp | IGA | 10 |", 7, "202 MB"),
        ("performance.md", "| mlp | MESO | 10 |", 7, "195 MB"),
        ("performance.md", "| mlp | RAD | 10 |", 7, "285 MB"),
        ("performance.md", "| maml | IAD | 5 |", 0, "135.5 ms"),
        ("performance.md", "| maml | FOA+IAD | 5 |", 0, "58.1 ms"),
        ("performance.md", "| graphs kept |", 0, "698"),
        ("performance.md", "| `remat_every = 1` |", 0, "105 MB"),
    ],
)
def test_timings_are_those_of_the_page(page, row, column, number):
    [line] = [line for line in (DOCS / page).read_text().splitlines() if line.startswith(row)]
    cell = line.removeprefix(row).split("|")[column]
    assert cell.split(",")[0].split()[0] == number.split()[0]
    assert any(number in advice.found for advice in recommend.ADVICE if advice.source == page)


@pytest.mark.parametrize("advice", recommend.ADVICE, ids=lambda a: a.problem)
def test_every_decimal_number_is_on_the_page_that_is_named(advice):
    numbers = NUMBER.findall(advice.found)
    if not advice.source:
        assert not numbers
        return
    page = (DOCS / advice.source).read_text()
    given = {float(n) for n in NUMBER.findall(page)}
    for number in numbers:
        digits = len(number.partition(".")[2])
        assert any(value == float(number) or round(value, digits) == float(number) for value in given) or (
            float(number) in (1.5, 1.6)  # ratios of two numbers that follow
        )


def test_ratios_follow_from_the_numbers_beside_them():
    [advice] = [a for a in recommend.ADVICE if a.problem == "x is large"]
    ratios = [float(n) for n in NUMBER.findall(advice.found)]
    assert [round(ratios[1] / ratios[2], 1), round(ratios[4] / ratios[5], 1)] == [ratios[0], ratios[3]] == [1.5, 1.6]


def test_every_method_that_is_named_is_there():
    named = set()
    for advice in recommend.ADVICE:
        for kind, group in re.findall(r"(gm|na|fo|sl)_op=(\[[^]]*\]|'\w+')", advice.take):
            for name in re.findall(r"'(\w+)'", group):
                assert registry.operators()[name].kind == kind
                named.add(name)
    assert {"RAD", "CG", "SOBA", "SABA", "IAD", "MESO"} <= named


def test_two_lists_at_once_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["ops", "--recommend", "--chains"])
    assert "ask for one of them" in capsys.readouterr().err
