"""What the site has beside docs/: the README as its first page, the project's own pages, examples and the reference."""

from __future__ import annotations

import ast
from pathlib import Path
import re
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
_FROM_ROOT = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "CITATION.cff")
_REFERENCE = {
    "trainer": (
        "Trainer",
        [
            "jboat.trainers.bilevel_trainer.BilevelTrainer",
            "jboat.trainers.history.History",
            "jboat.trainers.trainer_state.TrainerState",
            "jboat.stop_reason.StopReason",
            "jboat.trainers.outer_step.result.HyperGradientResult",
            "jboat.trainers.errors",
            "jboat.trainers.persistence.weights.load_weights",
        ],
    ),
    "callbacks": ("Callbacks and schedules", ["jboat.callbacks.callback.Callback", "jboat.callbacks.schedules"]),
    "operators": (
        "Operators",
        [
            "jboat.registry.register_operator",
            "jboat.capabilities",
            "jboat.trajectory.Trajectory",
            "jboat.linear_solvers",
        ],
    ),
    "pieces": (
        "Optimizers, projections, functions",
        [
            "jboat.optim",
            "jboat.projections",
            "jboat.learned_hyperparameters",
            "jboat.functional",
            "jboat.autodiff",
            "jboat.second_order",
            "jboat.fast_gradients",
            "jboat.nn",
        ],
    ),
}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not in docs/."""

    def add(uri: str, content: str) -> None:
        files.append(File.generated(config, uri, content=content))

    add("index.md", (ROOT / "README.md").read_text().replace("(docs/", "("))
    for name in _FROM_ROOT:
        add(name, (ROOT / name).read_text().replace("(docs/", "("))
    lines = ["# Examples", "", "Programs to copy; each has `--help`.", ""]
    for path in sorted((ROOT / "examples").glob("*.py")):
        summary = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].replace("\n", " ")
        lines.append(f"* [{path.name}](examples/{path.name}): {summary}")
        add(f"examples/{path.name}", path.read_text())
    add("examples.md", "\n".join(lines) + "\n")
    for name, (title, objects) in _REFERENCE.items():
        if name == "callbacks":
            exported = re.findall(r"^from (jboat\.callbacks\.\w+) import (\w+)$", _exports(), flags=re.M)
            objects = [*objects, *(f"{module}.{member}" for module, member in exported)]
        add(f"reference/{name}.md", f"# {title}\n\n" + "\n".join(f"::: {o}\n" for o in objects))
    return files


def _exports() -> str:
    return (ROOT / "callbacks" / "__init__.py").read_text()


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links that leave docs/ lead to the pages that stand for what they name."""
    markdown = markdown.replace("(../examples)", "(examples.md)").replace("(../benchmarks/results)", "(performance.md)")
    return markdown.replace("](../", "](")


def on_page_content(html: str, **_: Any) -> str:
    """Docstrings name functions and classes by Sphinx's roles, which Markdown does not know."""
    return re.sub(r":(?:meth|class|mod|func|data|attr):(?=\s*<code>)\s*", "", html)
