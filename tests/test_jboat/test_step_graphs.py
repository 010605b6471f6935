"""When steps are cut and computed, and that what is cut has no history."""

from jboat import functional, step_graphs
from jboat.step_graphs import JOINED_STEPS, JoinedSteps, StepGraphs
import jittor as jt
import numpy as np
from problems import Classifier
import pytest
from small_trainers import make


@pytest.fixture
def computed(monkeypatch):
    """How many Vars each call of ``jt.sync`` gets."""
    sync, sizes = jt.sync, []

    def counted(variables, *args):
        sizes.append(len(variables))
        return sync(variables, *args)

    monkeypatch.setattr(jt, "sync", counted)
    return sizes


def test_what_is_cut_has_its_value_and_no_history(computed):
    x, y = jt.array([1.0, 2.0]), jt.array([3.0])
    other = x * y
    products, sums, none = functional.cut_lists([2.0 * x, x * x], [x + y], [], together_with=[other])
    assert computed == [4]
    assert none == []
    np.testing.assert_array_equal([v.numpy() for v in (*products, *sums)], [[2.0, 4.0], [1.0, 4.0], [4.0, 5.0]])
    (alone,) = functional.cut([other])
    for leaf in (*products, *sums, alone):
        assert np.all(jt.grad((leaf * leaf).sum(), x).numpy() == 0.0)
        np.testing.assert_array_equal(jt.grad((leaf * leaf).sum(), leaf).numpy(), 2.0 * leaf.numpy())
    np.testing.assert_array_equal(jt.grad(other.sum(), x).numpy(), [3.0, 3.0])


@pytest.mark.parametrize(("small", "runs"), [(True, [2, 2, 1]), (False, [1] * 23)])
def test_steps_are_computed_together_where_they_are_small(small, runs, computed):
    """Ten to a run, with the one number of each that is asked for: 23 steps of 1.5 are 1.5^23."""
    joined, v = JoinedSteps(small=small), [jt.array([1.0])]
    for step in range(23):
        v = joined.cut([1.5 * v[0]], together_with=[2.0 * v[0]] if small and step in (4, 14) else [])
        assert joined.pending == (small and (step + 1) % JOINED_STEPS != 0)
    joined.settle()
    joined.settle()
    assert computed == runs
    assert v[0].item() == pytest.approx(1.5**23)


def test_a_step_that_must_be_alone_takes_those_before_with_it(computed):
    joined, v = JoinedSteps(small=True), [jt.array([1.0])]
    for step in range(5):
        v = joined.cut([2.0 * v[0]], alone=step == 3)
    assert computed == [1]
    joined.settle()
    assert computed == [1, 1]
    assert v[0].item() == 32.0


def multiply(graphs, x, steps, keep=lambda step: True):
    """v_{k+1} = x v_k."""
    for step in range(steps):
        graphs.add([x * graphs.inputs()[0]], keep=keep(step), join=True)
    graphs.settle()


@pytest.mark.parametrize(
    ("tracked_from", "keep", "at_once", "wanted"),
    [
        (0, lambda step: True, 1, [(10, False), (0, False)]),
        (0, lambda step: False, 1, [(10, True), (0, True)]),
        (0, lambda step: step >= 2, 5, [(10, False), (2, False), (0, True)]),
        (4, lambda step: True, 3, [(10, False), (4, True), (0, False)]),
    ],
)
def test_graphs_go_back_to_the_start_and_are_rebuilt_where_they_were_not_kept(tracked_from, keep, at_once, wanted):
    x = jt.array([1.25])
    graphs = StepGraphs([jt.array([1.0])], small=True, rebuilt_at_once=at_once)
    multiply(graphs, x, 12, keep)
    rebuilt, found, product = [], [], 1.0

    def rebuild(step, leaves):
        assert not rebuilt or step <= rebuilt[-1] + 1
        assert leaves is graphs.leaves(step) or step == rebuilt[-1] + 1
        rebuilt.append(step)
        return [x * leaves[0]]

    end = 12
    for start, inputs, outputs in graphs.backwards(0, 12, tracked_from=tracked_from, rebuild=rebuild):
        found.append((start, start in rebuilt))
        assert outputs[0].item() == pytest.approx(1.25**end)
        slope = jt.grad(outputs[0], inputs[0]).item()
        assert slope == pytest.approx(1.25 ** (end - start))
        product, end = product * slope, start
    assert found == wanted
    assert product == pytest.approx(1.25**12)


@pytest.mark.parametrize("fo_op", ["VFO", "VSO"])
def test_first_order_methods_have_the_same_policy(fo_op, monkeypatch, computed):
    """Twelve gradient steps of a model with two variables are two runs where it is small, and give the same numbers."""
    section = {"VFO": {}, "VSO": {"z_loop": 12}}[fo_op]
    values, runs = [], []
    for most in (step_graphs.MOST_VARIABLES_TO_JOIN, 1):
        monkeypatch.setattr(step_graphs, "MOST_VARIABLES_TO_JOIN", most)
        problem = Classifier()
        trainer = make(
            problem=problem, fo_op=fo_op, lower_iters={"VFO": 12, "VSO": 1}[fo_op], solver_config={fo_op: section}
        )
        computed.clear()
        result = trainer.hypergradient(*problem.batches())
        runs.append(len(computed))
        values.append([v.numpy() for v in (*result.gradients, *result.ll_parameters)])
    assert runs[1] - runs[0] >= 10
    for joined, apart in zip(*values, strict=True):
        np.testing.assert_allclose(joined, apart, rtol=1e-5, atol=1e-7)
