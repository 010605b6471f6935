"""Running a module with other parameters."""

from jboat import autodiff, functional
import jittor as jt
from jittor import nn
import numpy as np
import pytest


class Tied(jt.Module):
    """Two layers that share a weight, and a Conv1d, which hides its bias in an inner module."""

    def __init__(self):
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b.weight = self.a.weight
        self.conv = nn.Conv1d(1, 1, 3, padding=1)

    def execute(self, x):
        return self.conv(self.b(self.a(x)).reshape(-1, 1, 3)).reshape(-1, 3)


def test_substitution_reaches_tied_weights_and_hidden_aliases():
    model, x = Tied(), jt.ones((2, 3))
    variables = functional.trainable(model)
    assert len(variables) == 5
    before = [v.numpy().copy() for v in variables]
    values = [jt.array(0.1 + 0.5 * v.numpy()) for v in variables]
    jt.sync(values)
    with functional.substituted(variables, values):
        inside = model(x)
    gradients = jt.grad(inside.sum(), values)
    inside = inside.numpy().copy()
    for v, old in zip(variables, before, strict=True):
        np.testing.assert_array_equal(v.numpy(), old)
    for v, new in zip(variables, values, strict=True):
        v.update(new.detach())
    np.testing.assert_allclose(model(x).numpy(), inside, rtol=1e-6)
    expected = jt.grad(model(x).sum(), variables)
    for got, want in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-5, atol=1e-6)


def test_substitutions_nest_and_survive_exceptions():
    p = jt.array([1.0])

    def nested():
        with functional.substituted([p], [jt.array([2.0])]):
            assert p.item() == 2.0
            with functional.substituted([p], [jt.array([3.0])]):
                assert p.item() == 3.0
            assert p.item() == 2.0
            raise LookupError("inside")

    with pytest.raises(LookupError, match="inside"):
        nested()
    assert p.item() == 1.0


def test_substitution_under_no_grad_keeps_the_gradient_of_the_values():
    p, value = jt.array([1.0]), jt.array([2.0])
    loss = (value * value).sum()
    with jt.no_grad(), functional.substituted([p], [value]):
        p * 3.0
    assert not value.is_stop_grad()
    assert jt.grad(loss, [value])[0].item() == 4.0


def test_batchnorm_statistics_are_buffers_and_can_be_preserved():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm(4))
    assert len(functional.trainable(model)) == 4
    buffers = functional.buffers(model)
    assert len(buffers) == 2
    with functional.preserved(buffers):
        model(jt.array(np.arange(6, dtype="float32").reshape(2, 3))).sync()
        jt.sync(buffers)
        assert np.abs(buffers[0].numpy()).max() > 0
    np.testing.assert_array_equal(buffers[0].numpy(), 0)
    assert all(b.is_stop_grad() for b in buffers)


def test_dot_and_axpy():
    a, b = [jt.array([1.0, 2.0]), jt.array([[3.0]])], [jt.array([4.0, 5.0]), jt.array([[6.0]])]
    assert functional.dot(a, b).item() == 32.0
    assert [v.numpy().tolist() for v in functional.axpy(2.0, a, b)] == [[6.0, 9.0], [[12.0]]]


@pytest.mark.parametrize("size", [5, 70_000])
def test_derivatives_of_dot_and_axpy(size):
    rng = np.random.default_rng(2)
    a, b, da, db = rng.normal(size=(4, size))
    s, ds = 0.7, -1.3
    at, along = ([jt.array(np.asarray(v, "float32")) for v in values] for values in ((a, b, [s]), (da, db, [ds])))

    def value(a, b, s):
        return functional.dot([a, b], [functional.axpy(s, [a], [b], factor=-0.5)[0], a])

    np.testing.assert_allclose(value(*at).item(), a @ (b - 0.5 * s * a) + b @ a, rtol=1e-4)
    wanted = [2 * b - s * a, 2 * a, [-0.5 * a @ a]]
    changes = [2 * db - s * da - ds * a, 2 * da, [-a @ da]]
    for got, exact in ((autodiff.grad(value(*at), at), wanted), (autodiff.hvp(value(*at), at, along), changes)):
        for g, e in zip(got, exact, strict=True):
            np.testing.assert_allclose(g.numpy(), e, rtol=1e-4, atol=1e-4 * np.abs(e).max())


def test_axpy_by_a_number_has_the_number_as_its_derivative():
    a, b, weight = [jt.array([1.0, 2.0])], [jt.array([4.0, 5.0])], [jt.array([3.0, 7.0])]
    by_a, by_b = autodiff.vjp(functional.axpy(3.0, a, b, factor=-0.5), [*a, *b], weight)
    assert [by_a.numpy().tolist(), by_b.numpy().tolist()] == [[-4.5, -10.5], [3.0, 7.0]]


def test_numbers_of_64_bits_stay_what_they_are():
    a, b = ([jt.array(np.array(v), dtype="float64")] for v in ([1.0, 1e-12], [1.0, 1.0]))
    (moved,) = functional.axpy(2.0, a, b)
    assert (moved.dtype, moved.numpy().tolist()) == ("float64", [3.0, 1.0 + 2e-12])
    assert functional.dot(a, b).numpy().tolist() == [1.0 + 1e-12]


def test_lists_of_different_shapes_are_refused():
    a, b = [jt.array([1.0, 2.0])], [jt.array([1.0, 2.0, 3.0])]
    for combine in (functional.dot, lambda a, b: functional.axpy(1.0, a, b)):
        with pytest.raises(RuntimeError):
            combine(a, b)
