"""Gradients on lists of Vars, in the cases where Jittor's own differ from what one expects."""

from jboat import autodiff
import jittor as jt
import numpy as np
import pytest


def leaf(values):
    return jt.array(np.asarray(values, dtype="float32"))


def test_unused_integer_and_stop_grad_inputs_give_zeros():
    x, unused, frozen = leaf([1, 2]), leaf([3, 4]), leaf([5, 6]).stop_grad()
    integer = jt.array([1, 2])
    got = autodiff.grad((x * x * frozen).sum(), [x, unused, integer, frozen])
    assert [g.numpy().tolist() for g in got] == [[10, 24], [0, 0], [0, 0], [0, 0]]


def test_a_repeated_input_gets_its_gradient_every_time():
    x = leaf([3])
    first, second = autodiff.grad((x * x).sum(), [x, x])
    assert (first.item(), second.item()) == (6.0, 6.0)


def test_a_variable_by_itself():
    for _ in range(2):
        x, v = leaf([3.0]), leaf([5.0])
        (one,), (product,) = autodiff.grad(x, [x]), autodiff.vjp([x], [x], [v])
        one.assign(one + 1.0)  # a result is the caller's own
        assert (one.item(), product.item(), v.item()) == (2.0, 5.0, 5.0)


@pytest.mark.parametrize("shape", [(1,), (1, 1)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_loss_of_any_shape_with_one_number(shape, dtype):
    x = jt.array(np.array([1.5, -2.0]), dtype=dtype)
    (got,) = autodiff.grad((x * x).sum().reshape(shape), [x])
    assert (got.dtype, got.numpy().tolist()) == (dtype, [3.0, -4.0])


def test_nan_stays_nan():
    x = leaf([0.0, 1.0])
    (got,) = autodiff.grad(((x / x) * x).sum(), [x])
    assert np.isnan(got.numpy()[0])
    assert got.numpy()[1] == pytest.approx(1.0)


def test_a_vector_is_refused():
    with pytest.raises(ValueError, match=r"must be a scalar, got shape \[2\]"):
        autodiff.grad(leaf([1, 2]), [leaf([1])])


def test_vjp_takes_the_cotangent_as_a_constant():
    x = leaf([2.0, 3.0])
    (got,) = autodiff.vjp([x * x], [x], [x * x])  # attached, it would give d/dx x^4
    np.testing.assert_allclose(got.numpy(), 2 * x.numpy() * x.numpy() ** 2)


def test_hvp_of_a_cubic():
    x, y, v = leaf([1.0, -2.0]), leaf([0.5, 4.0]), leaf([0.3, 0.7])
    by_x, by_y = autodiff.hvp((x * x * x * y).sum(), [x, y], [v, v])
    a, b, w = x.numpy(), y.numpy(), v.numpy()
    np.testing.assert_allclose(by_x.numpy(), 6 * a * b * w + 3 * a**2 * w, rtol=1e-6)
    np.testing.assert_allclose(by_y.numpy(), 3 * a**2 * w, rtol=1e-6)


def test_a_gradient_can_be_differentiated_again():
    x = leaf([2.0])
    (first,) = autodiff.grad((x * x * x).sum(), [x])
    (second,) = autodiff.grad(first.sum(), [x])
    (third,) = autodiff.grad(second.sum(), [x])
    assert (first.item(), second.item(), third.item()) == (12.0, 12.0, 6.0)
