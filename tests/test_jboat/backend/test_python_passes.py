"""Passes over kernels' sources run in Python's own thread, so that kernels compiled at once may ask for them."""

from jboat.backend import python_passes
import jittor as jt
from jittor.distributions import simple_presum
import numpy as np
import pytest

X = np.array([[1.0, np.nan, 2.0], [np.inf, -3.0, 0.5]], "float32")


@pytest.mark.parametrize("name", ["isnan", "isinf", "isfinite"])
def test_operations_that_ask_for_one(name):
    np.testing.assert_array_equal(getattr(jt, name)(jt.array(X)).numpy(), getattr(np, name)(X))


def test_two_that_are_compiled_at_once():
    x, sums = jt.array(X), simple_presum(jt.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    found = jt.searchsorted(jt.array([[1.0, 3.0, 5.0]]), jt.array([[2.0, 4.0]]))
    both = jt.isnan(x)
    jt.sync([sums, found, both])
    np.testing.assert_array_equal(sums.numpy(), [[0, 1, 3, 6], [0, 4, 9, 15]])
    np.testing.assert_array_equal(found.numpy(), [[1, 2]])
    np.testing.assert_array_equal(both.numpy(), np.isnan(X))


def test_none_of_a_beginning_or_a_header_is_left_to_the_compiler(monkeypatch):
    seen = {}
    code = python_passes._running_passes(lambda *args, **kwargs: seen.update(kwargs))
    function = "\n__inline_static__\n@python.jittor.auto_parallel(1)\nvoid f(int n0, int i0, float* x) { if (x) { } }\n"
    code([1], "float32", [], cpu_src=f"{function}f(1, 0, in0_p);", cpu_header="#include <cmath>", data={})
    assert "@python" not in seen["cpu_src"] + seen["cpu_header"]
    assert seen["cpu_src"].strip() == "f(1, 0, in0_p);"
    assert seen["cpu_header"].startswith("#include <cmath>")
    assert "void f_inner" in seen["cpu_header"]
    code([1], "float32", [], cpu_src="@out0(0) = 1;")
    assert seen["cpu_src"] == "@out0(0) = 1;"
    with pytest.raises(ValueError, match="braces are not matched"):
        code([1], "float32", [], cpu_src="@python.jittor.auto_parallel(1) void f(int n0, int i0) { ")
