"""Make what docs/tutorial.md is the source of: the notebook, and the pictures that its programs draw.

python docs/make_tutorial.py             docs/tutorial.ipynb
python docs/make_tutorial.py --pictures  docs/images/tutorial-*.png too, by running the page
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
import re
import shutil
import tempfile
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE / "tutorial.md"
_BLOCK = re.compile(r"^```python\n(.*?)^```\n", flags=re.M | re.S)
_PICTURE = re.compile(r"^!\[.*?\]\(.*?\)\n", flags=re.M | re.S)


def notebook(page: str) -> dict[str, Any]:
    """The page's text and programs as cells, without outputs; its pictures are left out, since the cells draw them."""
    text = _PICTURE.sub("", page).replace("The same as a notebook:\n[tutorial.ipynb](tutorial.ipynb).\n", "")
    cells: list[dict[str, Any]] = []
    for number, part in enumerate(_BLOCK.split(text)):
        source = part.strip("\n")
        if not source:
            continue
        cell: dict[str, Any] = {"id": f"cell-{len(cells)}", "metadata": {}, "source": source.splitlines(keepends=True)}
        if number % 2:
            cell |= {"cell_type": "code", "execution_count": None, "outputs": []}
        else:
            cell |= {"cell_type": "markdown"}
        cells.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def as_text(document: dict[str, Any]) -> str:
    """The notebook as its file has it."""
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def draw() -> None:
    """Run the page, and take the pictures that it saves."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            exec(compile("\n".join(_BLOCK.findall(PAGE.read_text())), str(PAGE), "exec"), {"__name__": "page"})
            for picture in Path(folder).glob("*.png"):
                shutil.copy(picture, HERE / "images" / picture.name)
        finally:
            os.chdir(before)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", action="store_true", help="run the page and take its pictures")
    given = parser.parse_args()
    (HERE / "tutorial.ipynb").write_text(as_text(notebook(PAGE.read_text())))
    if given.pictures:
        draw()
