"""Every Python block of docs/ runs; blocks of one page share their names. test_newcomer.py runs the first pages.

A block of C++ that begins with a comment that is a file's name is a file in the folder where they run.
"""

import json
from pathlib import Path
import re
import shutil
import subprocess
import sys

import jboat
from jboat import callbacks
import jboat.trainers.bilevel_trainer  # registers the operators, before own_registry notes them
from logging_clients import clients
import newcomer
import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.M | re.S)


def files(page):
    return re.findall(r"^```cpp\n// (\S+\.(?:h|cc))\n(.*?)^```", page.read_text(), flags=re.M | re.S)


@pytest.mark.parametrize(
    "page", [p for p in PAGES if blocks(p) and str(p.relative_to(ROOT)) not in newcomer.PAGES], ids=lambda p: p.name
)
def test_code_blocks_run(page, tmp_path, monkeypatch, own_registry):
    monkeypatch.chdir(tmp_path)
    for name, stand_in in clients().items():
        monkeypatch.setitem(sys.modules, name, stand_in)
    names = {"__name__": "page"}
    for file, text in files(page):
        (tmp_path / file).write_text(text)
    for number, block in enumerate(blocks(page), start=1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)
    if page.name == "tutorial.md":
        pictures = [tmp_path / f"tutorial-{name}.png" for name in ("ridge", "cleaning", "maml")]
        assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
        assert all((ROOT / "docs" / "images" / picture.name).exists() for picture in pictures)


def test_recipes_of_loggers_log(tmp_path, monkeypatch):
    """Every step once, evaluations with their step, and an end that says whether the run failed."""
    stand_ins = clients()
    for name, stand_in in stand_ins.items():
        monkeypatch.setitem(sys.modules, name, stand_in)
    loggers = blocks(ROOT / "docs" / "recipes.md")[:4]
    names = {"__name__": "page"}
    exec("\n".join(loggers), names)
    [run] = stand_ins["wandb"].runs
    expected = [(1, False), (2, False), (2, True), (3, False), (4, False), (4, True)]
    rows = {
        "wandb": run.logged,
        "mlflow": [call[1:] for call in stand_ins["mlflow"].calls if call[0] == "metrics"],
        "swanlab": [call[1:] for call in stand_ins["swanlab"].calls if call[0] == "metrics"],
    }
    for name, logged in rows.items():
        assert [(step, "val_ul_loss" in metrics) for metrics, step in logged] == expected, name
        assert all(("ul_loss" in metrics) != ("val_ul_loss" in metrics) for metrics, _ in logged), name
    assert run.exit_code == 0
    assert stand_ins["mlflow"].calls[-1] == ("end", "FINISHED")
    assert stand_ins["swanlab"].calls[-1] == ("end", "success")

    def broken(batch, ul_model, ll_model):
        raise RuntimeError("on purpose")

    for logger in ("WandbLogger", "MLflowLogger", "SwanLabLogger"):
        trainer = names["make"](callbacks=[names[logger]()], metrics={"broken": broken})
        with pytest.raises(RuntimeError, match="on purpose"):
            trainer.fit(names["train"], names["validation"], max_steps=1, val_loader=names["test"])
    assert stand_ins["wandb"].runs[-1].exit_code == 1
    assert stand_ins["mlflow"].calls[-1] == ("end", "FAILED")
    assert stand_ins["swanlab"].calls[-1] == ("end", "crashed")


def test_the_notebook_is_the_tutorial():
    """The same programs in the same order, so that running the page (test_newcomer.py) runs it; and no outputs."""
    notebook = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert ["".join(cell["source"]) + "\n" for cell in code] == blocks(ROOT / "docs" / "tutorial.md")
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_the_notebook_is_made_from_the_page():
    command = [
        sys.executable,
        "-c",
        "import make_tutorial as m; print(m.as_text(m.notebook(m.PAGE.read_text())), end='')",
    ]
    made = subprocess.run(command, cwd=ROOT / "docs", capture_output=True, text=True, check=True).stdout
    assert made == (ROOT / "docs" / "tutorial.ipynb").read_text(), "run: python docs/make_tutorial.py"


def anchors(page):
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        place = page.parent / file if file else page
        assert place.exists(), target
        assert not anchor or anchor in anchors(place), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_blocks_of_settings_can_be_read(page):
    readers = {"toml": tomllib.loads, "json": json.loads}
    for language, block in re.findall(r"^```(toml|json)\n(.*?)^```", page.read_text(), flags=re.M | re.S):
        readers[language](block)


def test_the_site_is_made():
    """By the command of the workflow that publishes it, strictly: pages are in the menu, links lead somewhere."""
    [command] = re.findall(r"- run: (make docs .*)", (ROOT / ".github" / "workflows" / "site.yml").read_text())
    command += f" VENV={sys.prefix} --assume-old={sys.prefix}/.ready"  # with what is installed here
    site = ROOT / "build" / "docs"
    shutil.rmtree(site, ignore_errors=True)
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    menu = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES[1:]:
        assert f"- {page.name}\n" in menu, f"{page.name} is not in the menu of mkdocs.yml"
        assert (site / page.with_suffix(".html").name).exists()
    reference = "".join(path.read_text() for path in (site / "reference").glob("*.html"))
    for name in (*jboat.__all__[1:], *callbacks.__all__):
        assert name == "HOOKS" or re.search(rf'id="jboat\.[\w.]*\b{name}"', reference), name
    assert ":class:" not in re.sub(r"<pre>.*?</pre>", "", reference, flags=re.S)
    index = json.loads((site / "search" / "search_index.json").read_text())
    assert any("hypergradient" in entry["text"] for entry in index["docs"])
