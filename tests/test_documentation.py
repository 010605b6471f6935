"""Every Python block of the README and of docs/ runs; blocks of one page share their names.

A block of C++ that begins with a comment that is a file's name is a file in the folder where they run.
"""

import json
from pathlib import Path
import re
import subprocess
import sys

import jboat
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


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: p.name)
def test_code_blocks_run(page, tmp_path, monkeypatch, own_registry):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for file, text in files(page):
        (tmp_path / file).write_text(text)
    for number, block in enumerate(blocks(page), start=1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)


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


def test_the_api_reference_is_made(tmp_path):
    recipe = re.search(r"^docs:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), flags=re.M)[1]
    command = recipe.replace("$(BIN)/python", sys.executable).replace("build/docs", str(tmp_path))
    subprocess.run(["sh", "-c", command], cwd=ROOT, check=True, capture_output=True)
    page = (tmp_path / "jboat.html").read_text()
    for name in jboat.__all__:
        assert f'id="{name}"' in page or f"jboat.html#{name}" in page, name
    assert 'id="ModelCheckpoint"' in (tmp_path / "jboat" / "callbacks.html").read_text()
    assert 'id="RAD"' in (tmp_path / "jboat" / "na_ol.html").read_text()
