"""Jittor's functions are replaced for blocks and their threads alone, and never a user's."""

import contextlib
import threading
import types

from graph_checks import leaves
from jboat import autodiff, second_order
from jboat.backend import replaced_functions
from jboat.fast_gradients import fast_gradients
import jittor as jt
from jittor import nn
import numpy as np
import pytest

X = np.array([-2.0, 3.0], "float32")


def leaky(x):
    return jt.maximum(x, 0.0) + 0.5 * jt.minimum(x, 0.0)


@pytest.fixture
def jittors():
    """All functions that are replaced anywhere, which must lie in their places before a test and after it."""

    def lying():
        return {place: getattr(*place) for place in replaced_functions._slots}

    before = lying()
    assert before == {place: slot.original for place, slot in replaced_functions._slots.items()}
    yield before
    assert lying() == before
    assert all(slot.blocks == 0 for slot in replaced_functions._slots.values())


def test_every_function_found_is_jittors(jittors):
    assert all(slot.is_jittors for slot in replaced_functions._slots.values())
    for place in ((nn, "relu"), (jt, "where"), (jt.Var, "exp"), (jt.pool.Pool, "execute"), (jt, "random"), (jt, "max")):
        assert place in jittors


def test_a_users_function_from_before_is_used_inside_and_after(jittors, monkeypatch):
    monkeypatch.setattr(nn, "relu", leaky)
    with fast_gradients(), fast_gradients():
        assert nn.relu is leaky
        np.testing.assert_allclose(nn.relu(jt.array(X)).numpy(), [-1.0, 3.0])
        assert nn.matmul is not jittors[nn, "matmul"]
    assert nn.relu is leaky
    monkeypatch.undo()


def test_a_users_function_from_inside_stays(jittors):
    with fast_gradients():
        found = nn.relu
        nn.relu = lambda x: found(x) + 1.0
        with fast_gradients():
            np.testing.assert_allclose(nn.relu(jt.array(X)).numpy(), [1.0, 4.0])
    try:
        np.testing.assert_allclose(nn.relu(jt.array(X)).numpy(), [1.0, 4.0])
        with fast_gradients():
            np.testing.assert_allclose(nn.relu(jt.array(X)).numpy(), [1.0, 4.0])
        nn.relu = found  # as a user puts back what was there before
        with fast_gradients():
            np.testing.assert_allclose(nn.relu(jt.array(X)).numpy(), [0.0, 3.0])
    finally:
        nn.relu = jittors[nn, "relu"]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_blocks_that_overlap_leave_nothing_behind(jittors, order):
    blocks = [contextlib.ExitStack(), contextlib.ExitStack()]
    for block in blocks:
        block.enter_context(fast_gradients())
    entrance = nn.relu
    blocks[order[0]].close()
    assert nn.relu is entrance
    assert replaced_functions.current(nn, "relu") is not jittors[nn, "relu"]
    blocks[order[1]].close()


def test_a_block_that_another_thread_ends_is_gone_from_the_first(jittors):
    block = contextlib.ExitStack()
    block.enter_context(fast_gradients())
    ending = threading.Thread(target=block.close)
    ending.start()
    ending.join()
    with fast_gradients():
        pass
    assert replaced_functions.current(nn, "relu") is jittors[nn, "relu"]
    assert not replaced_functions._thread.functions


def test_other_threads_keep_jittors_functions(jittors):
    inside, seen = threading.Barrier(2), []

    def other():
        inside.wait()
        seen.append(replaced_functions.current(nn, "relu"))
        x = leaves([X])
        seen.append(autodiff.grad(x[0].max(), x)[0].numpy())
        inside.wait()

    thread = threading.Thread(target=other)
    thread.start()
    found = second_order.HandWritten()
    with fast_gradients(), second_order.watched(found):
        largest = replaced_functions.originals((jt.Var, "max"))[jt.Var, "max"]
        constant = {(jt.Var, "max"): lambda x, *axes, **options: largest(x.detach(), *axes, **options)}
        with replaced_functions.replaced(constant):  # as while a softmax is built
            inside.wait()
            inside.wait()
    thread.join()
    assert seen[0] is jittors[nn, "relu"]
    np.testing.assert_array_equal(seen[1], [0.0, 1.0])


def test_functions_of_other_threads_are_not_noted(jittors):
    class Double(jt.Function):
        def execute(self, x):
            return 2.0 * x

        def grad(self, g):
            return 2.0 * g

    def use():
        Double()(jt.array(X)).sync()

    found, of_other = second_order.HandWritten(), second_order.HandWritten()
    with second_order.watched(found):
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        assert found.names == []
        with second_order.watched(of_other):
            use()
        assert found.names == of_other.names == ["Double (a jt.Function)"]


def test_of_nested_blocks_the_innermost_counts(jittors):
    place = (nn, "relu")
    with replaced_functions.replaced({place: lambda x: 1}):
        with replaced_functions.replaced({place: lambda x: 2}):
            assert nn.relu(0) == 2
        assert nn.relu(0) == 1


def test_what_is_inherited_is_inherited_again():
    owner = type("Owner", (types.SimpleNamespace,), {"__module__": "jittor"})
    place = (owner, "__eq__")
    with replaced_functions.replaced({place: lambda self, other: "replaced"}):
        assert (owner() == owner()) == "replaced"
    assert "__eq__" not in vars(owner)
    assert owner() == owner()
    del replaced_functions._slots[place]


def test_a_users_function_from_before_the_import_of_jboat_is_left_alone():
    module = types.ModuleType("module")
    module.function = leaky
    with replaced_functions.replaced({(module, "function"): lambda x: 0}):
        assert module.function is leaky
        assert not replaced_functions.is_replaceable(module, "function")
    del replaced_functions._slots[module, "function"]
