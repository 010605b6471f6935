"""``python -m jboat ops``: the operators, their options, costs and papers."""

from __future__ import annotations

from dataclasses import fields
import inspect
from typing import Any

from jboat import registry
import jboat.fo_ol
import jboat.gm_ol
import jboat.na_ol
from jboat.registry import Operator
import jboat.sl_ol  # noqa: F401
from jboat.trainers.commands.docstring_sections import entries

_KINDS = {
    "gm": "lower-level dynamics (gm_op)",
    "na": "hypergradients (na_op)",
    "fo": "first-order methods (fo_op)",
    "sl": "stochastic single-loop methods (sl_op)",
}


_PREFACE = """# Operators

Made from the docstrings by `python -m jboat ops --markdown`; do not edit.

Throughout, F is the upper objective and f the lower one, x the upper-level variables and y the lower-level ones,
y_0..y_K the iterates of the lower loop, s the lower learning rate, and phi the objective of the last lower step used:
f, or with GDA `alpha F + (1 - alpha) f`, plus the lower optimizer's coupled weight decay, `wd / 2 ||y||^2` in every
parameter group. In DM, the first-order and the single-loop methods f stands for itself and that decay. Decoupled weight
decay (AdamW, Adan) belongs to no objective, which a warning says once a run.

## Which one?

[Which method?](which-method.md), or `python -m jboat ops --recommend`, decides by what was measured. In short, and by
the methods' properties alone:

* **The lower loop is short, or memory is plenty**: RAD. It is exact for the loop that is actually run.
* **The loop is long**: RGT before RAD forgets its beginning, `RAD.checkpoints` and `RAD.remat_every` trade time for
  memory without approximation, and CG or NS look at the last iterate alone.
* **The lower problem is solved nearly to its optimum**: CG, where its Hessian is positive definite, and with
  `solver = "minres"` or `damping` where it is not; NS where it is costly or ill-conditioned, since few terms are a
  damped answer; NYS where NS diverges.
* **Second derivatives are too costly**: FD takes one step into account (DARTS), IGA only gradients; or a first-order
  method.
* **The initialisation is what is learned**: IAD (MAML), FOA+IAD (first-order), IAD+CG (implicit).
* **The lower problem has many solutions**: GDA, DM, or a value-function method (VFO, MESO, VSO).
* **The lower loop is not convex**: PTT, with DI to learn where it starts.
* **Both levels have many small batches**: a single-loop method, whose steps cost one of SOBA's instead of a lower loop.
  SABA and SRBA need no decreasing step sizes, but loaders that give the same batches in every pass; F2SA needs no
  second derivatives.
"""


def main(*, chains: bool, markdown: bool) -> int:
    """Print the operators, the valid chains, or the page on operators; returns 0."""
    print(chain_listing() if chains else page() if markdown else listing())
    return 0


def page() -> str:
    """The page ``docs/operators.md``."""
    parts = [_PREFACE]
    for kind, title in _KINDS.items():
        parts.append(f"## {title[0].upper()}{title[1:]}\n")
        for operator in registry.operators(kind).values():  # type: ignore[arg-type]
            parts.append(f"### {operator.name}\n\n{inspect.cleandoc(operator.cls.__doc__ or '').replace('``', '`')}\n")
            if operator.options is not None:
                parts.append(_option_list(operator))
            if operator.cost:
                parts.append(f"Cost: {operator.cost}.\n")
    return "\n".join(parts).rstrip()


def _option_list(operator: Operator) -> str:
    """The options with their defaults as a list, and what the dataclass's docstring says of each attribute."""
    defaults, meanings = _defaults(operator), entries(getattr(operator.options, "__doc__", None), "Attributes")
    lines = [
        f"* `{name}` (default `{value!r}`)" + (f": {meanings[name]}" if name in meanings else "")
        for name, value in defaults.items()
    ]
    return f'Options, `solver_config["{operator.name}"]`:\n\n' + "\n".join(lines) + "\n"


def _defaults(operator: Operator) -> dict[str, Any]:
    """The options by name with the values that they have where nothing is said."""
    if operator.options is None:
        return {}
    made = operator.options()
    return {field.name: getattr(made, field.name) for field in fields(made)}


def listing() -> str:
    """One paragraph an operator: what it does, its options with defaults, its cost and its paper."""
    lines = []
    width = max(len(name) for name in registry.operators()) + 1
    for kind, title in _KINDS.items():
        lines += [title, ""]
        for operator in registry.operators(kind).values():  # type: ignore[arg-type]
            lines.append(f"  {operator.name:<{width}}{summary(operator)}")
            for label, text in (
                ("options", option_text(operator)),
                ("cost", operator.cost),
                ("source", source(operator)),
            ):
                if text:
                    lines.append(f"        {label + ':':<9}{text}")
            lines.append("")
    return "\n".join(lines).rstrip()


def chain_listing() -> str:
    """Every valid pair of chains, one a line."""
    return "\n".join(f"{'+'.join(gm):<16}{'+'.join(na)}" for gm, na in registry.valid_chains())


def summary(operator: Operator) -> str:
    """The first sentence of the class's docstring."""
    text = inspect.cleandoc(operator.cls.__doc__ or "").split("\n\n")[0]
    return " ".join(text.split()).replace("``", "")


def source(operator: Operator) -> str:
    """The paper that the class's docstring names."""
    text = inspect.cleandoc(operator.cls.__doc__ or "")
    for paragraph in text.split("\n\n"):
        joined = " ".join(paragraph.split())
        for label in ("Source: ", "Sources: "):
            if joined.startswith(label):
                return joined.removeprefix(label)
    return ""


def option_text(operator: Operator) -> str:
    """The option names with their defaults."""
    return ", ".join(f"{name}={value!r}" for name, value in _defaults(operator).items())
