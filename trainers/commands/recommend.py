"""``python -m jboat ops --recommend``: which method for which problem, by what was measured."""

from __future__ import annotations

import textwrap
from typing import NamedTuple

_SPEED = "performance.md"
_SUITE = "bilevel-suite.md"


class Advice(NamedTuple):
    """A row of the table.

    Attributes:
        problem: what the problem is like.
        take: how the trainer is told.
        found: what was measured, or why nothing was.
        source: the page of docs/ with the measurement; empty where it is none.
    """

    problem: str
    take: str
    found: str
    source: str = ""


ADVICE = (
    Advice(
        "few lower steps, or memory is plenty",
        "na_op=['RAD']",
        "exact for the loop that is run; l2, K = 10: 16.7 ms and 126 MB a step, K = 50: 93.4 ms and 135 MB",
        _SPEED,
    ),
    Advice(
        "many lower steps, and the loop itself matters",
        "na_op=['RGT', 'RAD'], or RAD with remat_every",
        "l2, K = 50: RGT 65.1 ms where RAD takes 93.4; a 3-layer CNN, K = 200: remat_every = 1 takes 105 MB instead of "
        "698, in no more time",
        _SPEED,
    ),
    Advice(
        "many lower steps, a convex lower problem solved nearly to its optimum",
        "na_op=['CG'] or ['NS']",
        "l2, K = 50: CG 61.5 ms and 120 MB, NS 63.4 ms and 121 MB, RAD 93.4 ms and 135 MB; at K = 10 they save "
        "nothing: 17.2 and 19.6 ms instead of 16.7",
        _SPEED,
    ),
    Advice(
        "a lower problem that is not convex, such as a deep network",
        "na_op=['RAD'], short loops",
        "cnn, K = 5: CG takes 119.0 ms where RAD takes 63.9, and the indefinite Hessian amplifies its rounding",
        _SPEED,
    ),
    Advice(
        "y is large: time or memory is short",
        "na_op=['FD'] or ['IGA'], or fo_op='MESO'",
        "mlp, K = 10: FD 368.5 ms and 196 MB, IGA 377.7 ms and 202 MB, MESO 134.1 ms and 195 MB, RAD 656.5 ms and "
        "285 MB; FD and IGA take the last step alone into account",
        _SPEED,
    ),
    Advice(
        "x is large",
        "no other method than for a small x",
        "all of them differentiate backwards: RAD costs 1.5 times IGA with 1000 entries in x (l2: 16.7 and 11.0 ms), "
        "and 1.6 times with 5000 (cleaning: 33.8 and 21.3 ms)",
        _SPEED,
    ),
    Advice(
        "the initialisation is learned",
        "na_op=['IAD'], or ['FOA', 'IAD'] where time is short",
        "maml, K = 5: IAD 135.5 ms, FOA+IAD 58.1 ms, which leaves second derivatives out",
        _SPEED,
    ),
    Advice(
        "many small batches that differ little, smooth and convex",
        "sl_op='SOBA' or 'F2SA'",
        "logistic: SOBA reaches 0.3359 and F2SA 0.3362 where RAD is at 0.3417 and CG at 0.3392 in the same time; F2SA "
        "needs no second derivatives",
        _SUITE,
    ),
    Advice(
        "many small batches that differ much, the same in every pass",
        "sl_op='SABA' or 'SRBA'",
        "quadratic: squared hypergradients of 5.6e-14 and 3.8e-15, SOBA 3.1e-06; cleaning: test errors of 0.155 and "
        "0.160, SOBA 0.172, but values of 2.0310 and 2.0439, SOBA 2.0164. Not everywhere: on softmax they end at "
        "0.1316 and 0.1480, SOBA at 0.1306. SRBA passes through all batches now and then, SABA keeps a gradient of "
        "each: on logistic, with 781 batches a level, the first such pass takes longer than the run, and SABA takes "
        "356 steps where SOBA takes 806",
        _SUITE,
    ),
    Advice(
        "many small batches that differ much, drawn or shuffled anew",
        "sl_op='MASOBA'",
        "quadratic: 6.8e-07 where SOBA is at 3.1e-06; on cleaning the other way round, 2.0257 and 2.0164; as good on "
        "logistic, 0.3360 and 0.3359, and on softmax, 0.1307 and 0.1306",
        _SUITE,
    ),
    Advice(
        "penalties in an exponent, a value-function method",
        "not fo_op='MESO' without bounds on x (ul_projection)",
        "logistic: x runs off to infinity, the squared distance from the lower solution is 3.9e+33",
        _SUITE,
    ),
    Advice(
        "a singular or an indefinite lower Hessian, and an implicit method all the same",
        "CG with damping or solver='minres', or NYS",
        "no timings yet; by their properties, which tests compare with dense solutions",
    ),
    Advice(
        "many lower solutions for one x",
        "GDA, DM, or fo_op='VSO'",
        "not measured; by their papers",
    ),
    Advice(
        "kinks: constraints or an L1 penalty on y",
        "na_op=['RAD'] with ll_projection",
        "no timings yet; by its properties: the unrolled loop is differentiated through its projection, and a test "
        "finds the lasso's support. CG and NS follow a projection with through_optimizer; single-loop methods refuse "
        "one",
    ),
)

_PREFACE = """# Which method?

Made by `python -m jboat ops --recommend --markdown`; do not edit.

Every row is decided by what was measured in this repository, or says that nothing was. Milliseconds are those of one
outer step on two processor cores, K is the number of lower steps; [Performance](performance.md) describes the problems
`l2`, `mlp`, `cnn`, `cleaning` and `maml`. Values and squared hypergradients come from short runs of
[the field's benchmark](bilevel-suite.md), of a second. Where two rows fit, try both: problems differ more than these
tables do. [Operators](operators.md) has formulas and options.

| problem | take | measured | where |
| --- | --- | --- | --- |
"""


def main(*, markdown: bool) -> int:
    """Print the table, or the page on it; returns 0."""
    print(page() if markdown else listing())
    return 0


def page() -> str:
    """The page ``docs/which-method.md``."""
    return _PREFACE + "\n".join(f"| {a.problem} | {a.take} | {a.found} | {_link(a.source)} |" for a in ADVICE)


def listing() -> str:
    """A paragraph a row."""
    return "\n\n".join(_paragraph(a) for a in ADVICE)


def _link(source: str) -> str:
    return f"[{source}]({source})" if source else ""


def _paragraph(advice: Advice) -> str:
    found = advice.found + (f" (docs/{advice.source})" if advice.source else "")
    first, *further = textwrap.wrap(found, 100)
    lines = [advice.problem, f"  take:     {advice.take}", f"  measured: {first}"]
    return "\n".join([*lines, *(f"            {line}" for line in further)])
