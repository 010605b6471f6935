"""Jittor's functions are replaced for blocks and their threads alone, and never a user's."""

import asyncio
import contextlib
import functools
import threading
import types

from graph_checks import leaves
from jboat import autodiff, second_order
from jboat.backend.replacements import dispatch
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
    """Jittor's own functions by place; before a test and after it they are what runs."""

    def check():
        for place, found in dispatch.installed().items():
            assert getattr(*place) is (found.dispatcher if found.lasting else found.original)
            assert dispatch.current(*place) is found.original

    check()
    yield {place: found.original for place, found in dispatch.installed().items()}
    check()


def test_every_function_found_is_jittors(jittors):
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
    found = nn.relu
    with fast_gradients():
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
        nn.relu = found


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_blocks_that_overlap_leave_nothing_behind(jittors, order):
    blocks = [contextlib.ExitStack(), contextlib.ExitStack()]
    for block in blocks:
        block.enter_context(fast_gradients())
    blocks[order[0]].close()
    assert dispatch.current(nn, "relu") is not jittors[nn, "relu"]
    blocks[order[1]].close()


def test_a_block_that_another_thread_ends_is_gone_from_the_first(jittors):
    block = contextlib.ExitStack()
    block.enter_context(fast_gradients())
    ending = threading.Thread(target=block.close)
    ending.start()
    ending.join()
    assert dispatch.current(nn, "relu") is jittors[nn, "relu"]
    with fast_gradients():
        pass


def test_an_exception_ends_a_block(jittors):
    with pytest.raises(ZeroDivisionError), fast_gradients(), fast_gradients():
        raise ZeroDivisionError


def test_what_was_imported_before_a_block_runs_the_same(jittors):
    from jittor.nn import relu

    x = jt.array(np.array([np.nan, 2.0], "float32"))
    np.testing.assert_array_equal(relu(x).numpy(), [0.0, 2.0])  # Jittor's own loses NaN
    with fast_gradients():
        np.testing.assert_array_equal(relu(x).numpy(), [np.nan, 2.0])
    np.testing.assert_array_equal(relu(x).numpy(), [0.0, 2.0])


def test_other_threads_keep_jittors_functions(jittors):
    inside, seen = threading.Barrier(2), []

    def other():
        inside.wait()
        seen.append(dispatch.current(nn, "relu"))
        x = leaves([X])
        seen.append(autodiff.grad(x[0].max(), x)[0].numpy())
        inside.wait()

    thread = threading.Thread(target=other)
    thread.start()
    found = second_order.HandWritten()
    with fast_gradients(), second_order.watched(found):
        largest = jittors[jt.Var, "max"]
        constant = {(jt.Var, "max"): lambda x, *axes, **options: largest(x.detach(), *axes, **options)}
        with dispatch.replaced(constant):  # as while a softmax is built
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
    with dispatch.replaced({place: lambda x: 1}):
        with dispatch.replaced({place: lambda x: 2}):
            assert nn.relu(0) == 2
        assert nn.relu(0) == 1


def test_what_is_not_jittors_own_is_left_alone():
    module = types.ModuleType("module")
    module.function = functools.wraps(nn.softmax)(leaky)  # which then says to be Jittor's
    leaky_too = module.function
    assert dispatch.install(module, "function", "for a test") is leaky_too
    with dispatch.replaced({(module, "function"): lambda x: 0}):
        assert module.function is leaky_too
        assert not dispatch.is_replaceable(module, "function")
    del dispatch._installed[module, "function"]


def test_tasks_of_one_thread_keep_their_own():
    """A context, not the thread, has what is replaced."""

    async def waits_inside(inside, leave):
        with fast_gradients():
            inside.set()
            await leave.wait()

    async def looks(inside, leave):
        await inside.wait()
        found = dispatch.current(nn, "relu")
        leave.set()
        return found

    async def both():
        inside, leave = asyncio.Event(), asyncio.Event()
        return await asyncio.gather(waits_inside(inside, leave), looks(inside, leave))

    assert asyncio.run(both())[1] is dispatch.installed()[nn, "relu"].original
