"""Who may import whom: read from the sources, function bodies left out unless the rule is about them."""

import ast
from pathlib import Path

from jboat import public_names
import pytest

ROOT = Path(__file__).parents[1]
FRONT_DOORS = {"jboat", "jboat.__main__"}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "jboat" else ("jboat", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(p): p for room in ("jboat", "trainers", "callbacks") for p in (ROOT / room).rglob("*.py")}


def is_for_types(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(name, *, everywhere):
    """The modules of jboat that a module imports when it is imported, or also later; never for types alone."""
    found, nodes = set(), list(ast.parse(SOURCES[name].read_text()).body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            named = {f"{node.module}.{alias.name}" for alias in node.names}
            front = {
                f"jboat.{alias.name}": public_names.HOMES.get(alias.name)
                for alias in node.names
                if node.module == "jboat"
            }
            found |= {module if module in SOURCES else front.get(module) or node.module for module in named}
        elif is_for_types(node):
            nodes += node.orelse
        elif everywhere or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            nodes += list(ast.iter_child_nodes(node))
    return {module for module in found if module in SOURCES and module != name}


def room(name):
    if name in FRONT_DOORS:
        return "front door"
    first = name.split(".")[1] if "." in name else ""
    return first if first in ("backend", "trainers", "callbacks") else "jboat"


MAY_IMPORT = {
    "backend": {"backend"},
    "jboat": {"jboat", "backend"},
    "callbacks": {"callbacks", "jboat"},
    "trainers": {"trainers", "callbacks", "jboat", "backend"},
}


@pytest.mark.parametrize("name", sorted(SOURCES.keys() - FRONT_DOORS))
def test_rooms_import_what_they_may(name):
    found = imports(name, everywhere=True)
    assert {other for other in found if room(other) not in MAY_IMPORT[room(name)]} == set()


def test_there_is_no_cycle():
    graph = {name: imports(name, everywhere=False) - FRONT_DOORS for name in SOURCES if name not in FRONT_DOORS}
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        path.append(name)
        for other in sorted(graph[name]):
            visit(other)
        path.pop()
        done.add(name)

    for name in sorted(graph):
        visit(name)


def test_the_rules_see_what_they_forbid(tmp_path, monkeypatch):
    made = tmp_path / "made.py"
    monkeypatch.setitem(SOURCES, "jboat.callbacks.made", made)
    for line in (
        "from jboat.trainers.errors import NonFiniteError",
        "from jboat import NonFiniteError",
        "import jboat",
    ):
        made.write_text(f"def later():\n    {line}\n")
        with pytest.raises(AssertionError):
            test_rooms_import_what_they_may("jboat.callbacks.made")
