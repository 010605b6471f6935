"""ReLU, and what reaches its derivatives from several layers."""

from graph_checks import calls_of, close, leaves
from jboat import autodiff
from jboat.fast_gradients import fast_gradients
import jittor as jt
from jittor import nn
import numpy as np
import pytest

RNG = np.random.default_rng(5)


def rectified_twice(x, first, second):
    """A ReLU with two readers, one of another shape, below and above another ReLU."""
    hidden = nn.relu(nn.relu(x) @ first)
    return ((hidden.reshape(-1) ** 2).reshape(hidden.shape) @ second).sum() + ((hidden @ second) ** 3).sum()


def rectified_gradient(x, first, second):
    """The same in numpy, float64."""
    below = np.maximum(x, 0) @ first
    hidden = np.maximum(below, 0)
    out = hidden @ second
    by_hidden = 2 * hidden * second.sum(1) + 3 * out**2 @ second.T
    by_below = by_hidden * (below > 0)
    by_second = (hidden**2).sum(0)[:, None] + hidden.T @ (3 * out**2)
    return [by_below @ first.T * (x > 0), np.maximum(x, 0).T @ by_below, by_second]


def test_derivatives_of_relu_add_up_what_reaches_it():
    rng = np.random.default_rng(13)
    arrays, directions = ([rng.normal(size=s) for s in [(30, 4), (4, 5), (5, 3)]] for _ in range(2))

    def numpys_along(arrays, eps=1e-6):
        moved = [[a + sign * eps * v for a, v in zip(arrays, directions, strict=True)] for sign in (1, -1)]
        sides = [rectified_gradient(*m) for m in moved]
        return [(a - b) / (2 * eps) for a, b in zip(*sides, strict=True)]

    with fast_gradients():
        at, along = leaves(arrays), leaves(directions)

        def gradient_along():
            return autodiff.vjp(autodiff.grad(rectified_twice(*at), at), at, along)

        close(autodiff.grad(rectified_twice(*at), at), rectified_gradient(*arrays))
        close(gradient_along(), numpys_along(arrays))
        third = autodiff.vjp(gradient_along(), at, along)
    wanted = autodiff.vjp(autodiff.vjp(autodiff.grad(rectified_twice(*at), at), at, along), at, along)
    close(third, [w.numpy() for w in wanted])


def test_what_reaches_relu_in_another_shape():
    shapes = [(10, 4), (5, 4), (3, 10), 5, 3]
    at, along = (leaves([RNG.normal(size=s) for s in shapes]) for _ in range(2))

    def derivatives():
        x, first, second, *biases = at
        hidden = nn.relu(nn.linear(x, first, biases[0])).reshape((5, 10))
        gradient = autodiff.grad((nn.linear(hidden, second, biases[1]) ** 3).sum(), at)
        once = autodiff.vjp(gradient, at, along)
        return [*once, *autodiff.vjp(once, at, along)]

    wanted = [w.numpy() for w in derivatives()]
    with fast_gradients():
        close(derivatives(), wanted)


@pytest.mark.parametrize("layer", ["linear", "convolution"])
def test_what_layers_add_to_second_derivatives_of_relu_needs_no_kernel(layer):
    shapes = {"linear": [(9, 4), (5, 4), (3, 5)], "convolution": [(2, 3, 6, 6), (4, 3, 3, 3), (5, 4, 3, 3)]}[layer]
    x, first, second = leaves([RNG.normal(size=s) for s in shapes])
    biases = leaves([RNG.normal(size=s[0]) for s in shapes[1:]])
    at = [x, first, second, *biases]
    along = leaves([RNG.normal(size=a.shape) for a in at])

    def second_derivative():
        apply = nn.linear if layer == "linear" else nn.conv2d
        hidden = nn.relu(apply(nn.relu(x), first, biases[0]))
        return autodiff.hvp((nn.relu(apply(hidden, second, biases[1])) ** 3).sum(), at, along)

    def sums(calls):
        alone = "«opkey0:binary«Tx:float32«Ty:float32«Tz:float32«OP:add«JIT"
        return sum(count for name, count in calls.items() if name.startswith(alone))

    wanted = [w.numpy() for w in second_derivative()]
    of_weights = 2  # each is met on the way forth and on the way back
    with fast_gradients():
        assert sums(calls_of(second_derivative)) == of_weights
        close(second_derivative(), wanted)


def test_relu_of_other_types_is_jittors():
    values = np.array([-1.5, 0.0, 2.5], "float32")
    with fast_gradients():
        for x in (values, jt.array(values), jt.array(values.astype("int32"))):
            np.testing.assert_array_equal(nn.relu(x).numpy(), np.maximum(np.asarray(x), 0))
            np.testing.assert_array_equal(nn.ReLU()(x).numpy(), np.maximum(np.asarray(x), 0))
