"""What is decided about a chain once: its plan, its options, and who may ask for an operator's name."""

import ast
from collections import Counter
import dataclasses
from functools import partial
from pathlib import Path
import subprocess
import sys

from jboat import register_operator, registry
from jboat.callbacks import Callback
from jboat.capabilities import LowerCapabilities, UpperCapabilities
from jboat.gm_ol import GDA, LowerLevelOperator
from jboat.na_ol import CG, NS, RAD, HyperGradientOperator
from jboat.na_ol.modifier import Modifier
from jboat.registry import DynamicalSystemRules, HyperGradientRules
import numpy as np
from problems import Quadratic
import pytest
from small_trainers import make

ROOT = Path(__file__).parents[2]
ROLES = {name for rules in (DynamicalSystemRules, HyperGradientRules) for g in rules.gradient_order for name in g}
ROOMS = ("jboat", "trainers", "callbacks")
ASK = {"registry.py", "first_program.py"}  # the registry, and a program such as users write
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py") if path.name not in ASK)


def roles_asked_for(source):
    """Operators' names in comparisons, matches, look-ups and arguments, each with its line.

    What is left are lists of names: ``__all__``, default chains, and the sections that an operator shares.
    """
    tree, found = ast.parse(source), []
    asking = (ast.Compare, ast.Subscript, ast.MatchValue, ast.MatchSingleton)
    for node in ast.walk(tree):
        if isinstance(node, asking):
            inside = [node]
        elif isinstance(node, ast.Call):
            inside = [*node.args, *(keyword.value for keyword in node.keywords)]
        elif isinstance(node, ast.Dict):
            inside = [key for key in node.keys if isinstance(key, ast.Constant)]
        elif isinstance(node, ast.BinOp) and isinstance(node.op, (ast.BitAnd, ast.BitOr, ast.Sub)):
            inside = [node]
        else:
            continue
        constants = [c for part in inside for c in ast.walk(part) if isinstance(c, ast.Constant)]
        found += [(c.value, c.lineno) for c in constants if isinstance(c.value, str) and c.value in ROLES]
    return sorted(set(found))


def test_fourteen_roles_and_all_the_source_are_looked_at():
    assert len(ROLES) == 14
    assert {"ngd.py", "lower_objective.py", "bilevel_trainer.py", "option_schedule.py"} <= {p.name for p in SOURCES}


@pytest.mark.parametrize(
    "source",
    [
        'if "DM" in gm_op: pass',
        'if next_operation == "DM": pass',
        'if taken & {"CG", "NS"}: pass',
        'if name in ("CG", "NS"): pass',
        'x = registry.options(solver_config, "GDA")',
        'x = solver_config["CG"]',
        'x = solver_config.get("CG")',
        'x = search(kind="CG")',
        'x = {"FOA": "why"}',
        'match name:\n    case "PTT":\n        pass',
    ],
)
def test_asking_for_a_name_is_noticed(source):
    assert roles_asked_for(source)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_but_the_registry_asks_for_an_operators_name(path):
    assert roles_asked_for(path.read_text()) == []


@pytest.mark.parametrize("names", registry.valid_chains(), ids=lambda pair: "+".join(pair[0]) + " " + "+".join(pair[1]))
def test_the_plan_of_every_chain(names):
    gm, na = names
    plan = registry.plan(gm, na)
    solver = bool({"CG", "NS", "NYS"} & {*na})
    pulls_back = "RAD" in na or ("IAD" in na and "FOA" not in na and not solver)
    assert [op.name for op in plan.operators] == [*gm, *na]
    places = [plan.aggregator, plan.start_learner, plan.multiplier_mover, plan.initializer, plan.chooser]
    names_there = [None if op is None else op.name for op in [*places, plan.truncator, plan.rebuilder]]
    assert names_there == [
        *(name if name in (*gm, *na) else None for name in ("GDA", "DI", "DM", "IAD", "PTT", "RGT")),
        "RAD",
    ]
    assert plan.implicit == ("IAD" in na and solver)
    assert plan.differentiates_steps == pulls_back
    assert plan.needs_second_derivatives == (pulls_back or solver or "DI" in gm or "DM" in gm)
    assert plan.has_lower_loop == ("DM" not in gm)
    assert plan.multiplier_update == {("RAD",): "gradient step", ("CG",): "line search"}.get(na)
    assert not plan.without_graphs().differentiates_steps
    assert not plan.without_graphs().pulls_back
    assert plan.without_graphs().implicit == plan.implicit


def test_a_plan_cannot_be_changed():
    plan = registry.plan(["NGD"], ["RAD"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.implicit = True


trainer = partial(make, ul_lr=0.05, lower_iters=5)


CHAINS = [
    (["GDA", "DI", "NGD"], ["PTT", "RGT", "RAD"]),
    (["GDA", "NGD"], ["IAD", "CG"]),
    (["GDA", "NGD"], ["IAD", "NS"]),
    (["NGD"], ["FD"]),
    (["GDA", "DM"], ["CG"]),
]


class Halfway(Callback):
    """Changes a section in the middle of the second outer step, after the lower loop."""

    def on_lower_loop_end(self, trainer, state):
        if state.step == 1:
            trainer.solver_config["GDA"]["alpha_init"] = 0.2


@pytest.mark.parametrize(("gm_op", "na_op"), CHAINS, ids=str)
def test_a_section_is_read_once_and_again_only_when_it_has_changed(gm_op, na_op, monkeypatch):
    sections = {"RGT": {"truncate_iter": 2}, "GDA": {"alpha_init": 0.5}, "CG": {"k": 3}, "RAD": {"remat_every": 2}}
    it = trainer(gm_op=gm_op, na_op=na_op, solver_config=sections)
    it.fit({}, {}, max_steps=1)
    made = Counter()
    for operator in registry.operators().values():
        if operator.options is not None:

            def counted(self, own=operator.options.__post_init__):
                made[type(self).__name__] += 1
                own(self)

            monkeypatch.setattr(operator.options, "__post_init__", counted)
    it.fit({}, {}, max_steps=3)
    assert not made
    it.solver_config["GDA"] = {"alpha_init": 0.25}
    it.fit({}, {}, max_steps=3)
    assert made == (
        {"GDAOptions": 1} if "GDA" in gm_op and it.current_run.method.has_lower_loop else {}
    )  # DM has a weight of its own


def test_what_changes_within_an_outer_step_counts_from_the_next():
    quiet, changed = (
        trainer(
            gm_op=["GDA", "NGD"],
            na_op=["CG"],
            solver_config={"GDA": {"alpha_init": 0.5, "alpha_decay": 1.0}},
            callbacks=callbacks,
        )
        for callbacks in ((), [Halfway()])
    )
    for it in (quiet, changed):
        it.fit({}, {}, max_steps=2)
    np.testing.assert_array_equal(quiet.ul_var[0].numpy(), changed.ul_var[0].numpy())
    changed.fit({}, {}, max_steps=1)
    assert changed.history["gda_alpha"] == [0.5, 0.5, 0.2]


def test_an_operator_alone_follows_its_section():
    problem = Quadratic()
    ul_model, ll_model = problem.models()
    config = {"CG": {"k": 7}}
    levels = {"ll_objective": problem.f, "ul_objective": problem.F, "ll_model": ll_model, "ul_model": ul_model}
    cg = CG(**levels, ll_var=[ll_model.value], ul_var=[ul_model.value], solver_config=config)
    assert cg.K == 7
    config["CG"]["k"] = 9
    assert cg.K == 9
    config["CG"] = {"k": 0}
    with pytest.raises(ValueError, match="k of CG and NS must be an integer >= 1, got 0"):
        cg.K  # noqa: B018


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """Options without a field."""


@pytest.mark.parametrize(
    ("kind", "like", "base", "attributes", "options", "error", "message"),
    [
        ("gm", "DI", GDA, {}, None, ValueError, "like='DI', but its capabilities lack next_start, which makes a DI"),
        ("gm", "GDA", LowerLevelOperator, {"capabilities": LowerCapabilities()}, None, ValueError, "lack weight"),
        ("gm", "DM", LowerLevelOperator, {"capabilities": LowerCapabilities()}, None, ValueError, "moves_multiplier"),
        ("na", "PTT", Modifier, {"capabilities": UpperCapabilities()}, None, ValueError, "lack chooses_iterate"),
        ("na", "RGT", Modifier, {"capabilities": UpperCapabilities()}, None, ValueError, "lack tracked_from"),
        ("na", "IAD", RAD, {}, None, ValueError, "lack starts_from_x"),
        ("na", "RGT", Modifier, {}, NoOptions, ValueError, "tracked_from cannot read its options .*truncate_iter"),
        ("gm", "GDA", GDA, {}, NoOptions, ValueError, "weight cannot read its options .*alpha_init"),
        (
            "na",
            "CG",
            CG,
            {"capabilities": LowerCapabilities()},
            None,
            TypeError,
            "must be UpperCapabilities, got Lower",
        ),
        ("na", "CG", CG, {"capabilities": {"implicit": True}}, None, TypeError, "must be UpperCapabilities, got {"),
    ],
)
def test_an_operator_that_could_not_do_what_its_place_asks_for(
    own_registry, kind, like, base, attributes, options, error, message
):
    before = registry.operators()
    with pytest.raises(error, match=message):
        register_operator(kind, like=like, options=options)(type("Mine", (base,), attributes))
    assert registry.operators() == before


def test_with_a_first_order_method_the_chains_ask_for_nothing():
    it = trainer(fo_op="ALTO", gm_op=["DI", "NGD"], na_op=["RGT", "RAD"])
    assert it.current_run.problem.plan.operators == ()
    x = it.ul_var[0].numpy().copy()
    it.fit({}, {}, max_steps=2)
    assert np.abs(it.ul_var[0].numpy() - x).max() > 0


def test_options_shared_by_a_base_class_are_not_those_of_a_class_with_its_own(own_registry):
    @dataclasses.dataclass(frozen=True)
    class Options:
        k: int = 4
        tolerance: float = 0.5

    register_operator("na", like="NS", options=Options)(type("Mine", (NS,), {}))
    operator = registry.operators()["Mine"]
    assert operator.options_in({"CG": {"k": 9}}) == Options()
    assert operator.options_in({"Mine": {"k": 9}}) == Options(k=9)
    assert registry.operators()["NS"].options_in({"CG": {"k": 9}}).k == 9


def test_a_class_that_is_not_registered_has_the_options_of_its_base(own_registry):
    class Deeper(CG):
        """CG under another name."""

    class Plain(HyperGradientOperator):
        """Nothing that is registered."""

    problem = Quadratic()
    ul_model, ll_model = problem.models()
    levels = {"ll_objective": problem.f, "ul_objective": problem.F, "ll_model": ll_model, "ul_model": ul_model}
    levels |= {"ll_var": [ll_model.value], "ul_var": [ul_model.value], "solver_config": {"CG": {"k": 3}}}
    assert Deeper(**levels).K == 3
    assert Plain(**levels).options is None


def test_an_operator_of_ones_own_may_be_the_first_that_is_registered():
    program = """
import jboat

@jboat.register_operator("gm", like="DI")
class Mine:
    pass

from jboat import registry
assert registry.plan(["Mine"], []).start_learner.section_options.__name__ == "DIOptions"
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("needed", [False, True])
def test_an_operator_of_ones_own_says_whether_it_differentiates_twice(needed, own_registry):
    @register_operator("na", like="FD")
    class Mine(HyperGradientOperator):
        capabilities = UpperCapabilities(second_derivatives=needed)

    plan, _ = registry.plan_and_options({"gm_op": ["NGD"], "na_op": ["Mine"]})
    assert plan.needs_second_derivatives == needed


def test_within_an_outer_step_sections_are_not_looked_at():
    """Every reader of a step has the options that it began with, the lower steps without graphs among them."""
    it = trainer(gm_op=["GDA", "NGD"], na_op=["RGT", "RAD"], solver_config={"RGT": {"truncate_iter": 2}})
    options, config = it.current_run.problem.options, it.current_run.problem.config
    other = options.under(it.current_run.problem.plan.without_graphs())
    known, unknown = registry.operators()["GDA"], registry.operators()["CG"]
    assert options.of(unknown).k == other.of(unknown).k
    before = [o.of(op) for o in (options, other) for op in (known, unknown)]
    config["GDA"], config["CG"] = {"alpha_init": 0.125}, {"k": 3}
    assert [o.of(op) for o in (options, other) for op in (known, unknown)] == before
    options.renew()
    assert [o.of(known).alpha_init for o in (options, other)] == [0.125, 0.125]
    assert [o.of(unknown).k for o in (options, other)] == [3, 3]
    assert (options.tracked_from, other.tracked_from) == (2, 0)
