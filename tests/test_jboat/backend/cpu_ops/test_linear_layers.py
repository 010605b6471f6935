"""Linear layers, their gradients by weight and bias, and the derivatives of these."""

from graph_checks import close, kernels_of, leaves
from jboat import autodiff
from jboat.fast_gradients import fast_gradients
import jittor as jt
from jittor import nn
import numpy as np
import pytest

RNG = np.random.default_rng(5)


class Cubes:
    """The sum of the cubes of a linear layer's outputs, and its derivatives, in numpy, float64."""

    def __init__(self, x, weight, bias):
        self.at, self.out = (x, weight, bias), x @ weight.T + bias

    def pulled_back(self, by_out):
        x, weight, _ = self.at
        return [by_out @ weight, by_out.T @ x, by_out.sum(0)]

    def gradient(self):
        return self.pulled_back(3 * self.out**2)

    def gradient_along(self, dx, dw, db):
        (x, weight, _), by_out = self.at, 3 * self.out**2
        direct = [by_out @ dw, by_out.T @ dx, 0.0]
        found = self.pulled_back(6 * self.out * (dx @ weight.T + x @ dw.T + db))
        return [a + b for a, b in zip(direct, found, strict=True)]

    def gradient_along_twice(self, *along, eps=1e-5):
        moved = [Cubes(*(a + sign * eps * v for a, v in zip(self.at, along, strict=True))) for sign in (1, -1)]
        sides = [cubes.gradient_along(*along) for cubes in moved]
        return [(a - b) / (2 * eps) for a, b in zip(*sides, strict=True)]


def layer_of(n, m, k):
    rng = np.random.default_rng(11)
    return ([rng.normal(size=s) for s in [(n, m), (k, m), k]] for _ in range(2))


# few outputs, more, and so many rows for each of them that oneDNN computes a layer
LAYERS = [(40, 30, 7), (60, 20, 30), (660, 9, 30)]


@pytest.mark.parametrize(("n", "m", "k"), LAYERS)
def test_linear_layers_and_their_derivatives(n, m, k):
    arrays, directions = layer_of(n, m, k)
    cubes, at, along = Cubes(*arrays), leaves(arrays), leaves(directions)

    def gradient():
        return autodiff.grad((nn.linear(*at) ** 3).sum(), at)

    def gradient_along():
        return autodiff.vjp(gradient(), at, along)

    with fast_gradients():
        close([nn.linear(*at)], [cubes.out])
        close(gradient(), cubes.gradient())
        close(gradient_along(), cubes.gradient_along(*directions))
        close(autodiff.vjp(gradient_along(), at, along), cubes.gradient_along_twice(*directions))


def test_derivatives_of_a_layers_gradients_by_weight_and_bias_alone():
    arrays, (_, dw, db) = layer_of(*LAYERS[0])
    cubes, at, along = Cubes(*arrays), leaves(arrays), leaves([dw, db])

    def gradient():
        return autodiff.grad((nn.linear(*at) ** 3).sum(), at[1:])

    with fast_gradients():
        close(gradient()[1:], cubes.gradient()[2:])
        close(autodiff.vjp(gradient()[:1], at, along[:1]), cubes.gradient_along(0.0 * arrays[0], dw, 0.0 * db))
        close(autodiff.vjp(gradient()[1:], at, along[1:]), cubes.gradient_along(0.0 * arrays[0], 0.0 * dw, db))


def test_a_layer_whose_output_has_no_derivative_leaves_those_of_others_alone():
    arrays, _ = layer_of(*LAYERS[0])
    at = leaves(arrays)

    def squares():
        return sum((a * a).sum() for a in at)

    def flat(values):
        return sum(v.floor().sum() for v in values)

    with fast_gradients():
        of_output = [squares() + flat([nn.linear(*at)]), flat([nn.linear(*at)]) + squares()]
        gradients = autodiff.grad((nn.linear(*at) ** 3).sum(), at[1:])
        for value in [*of_output, squares() + flat(gradients), flat(gradients) + squares()]:
            close(autodiff.grad(value, at), [2 * a for a in arrays])


def test_biases_of_layers_need_no_kernels():
    layer = nn.Linear(3, 10)
    x, along = (jt.array(RNG.normal(size=s).astype("float32")) for s in [(40, 3), (10, 3)])

    def along_gradient():
        gradient = autodiff.grad((layer(x) ** 2).sum(), [layer.weight, layer.bias])
        return autodiff.vjp(gradient, [layer.weight, layer.bias], [along, along[:, 0]])

    def of_biases(names):
        sums, rows = "OP:add«DIM=2«REDUCE=1", "broadcast_to«Tx:float32«DIM=2«BCAST=1"
        return [name for name in names if sums in name or rows in name]

    assert of_biases(kernels_of(along_gradient))
    with fast_gradients():
        assert not of_biases(kernels_of(along_gradient))


def test_layers_of_other_arguments_are_jittors():
    rows, weight, bias = leaves([RNG.normal(size=s) for s in [(7, 4), (3, 4), 3]])
    batch = rows.unsqueeze(0)
    layers = [nn.Linear(4, 3), nn.Linear(4, 3, bias=False)]
    scalar = jt.array(np.array([0.5], "float32"))

    def values():
        plain = [nn.linear(rows, weight), nn.linear(batch, weight, bias), nn.linear(rows, weight, scalar)]
        return [*plain, nn.linear(rows, weight, 0.5), *(layer(x) for layer in layers for x in (rows, batch))]

    wanted = [v.numpy() for v in values()]
    with fast_gradients():
        for got, a in zip(values(), wanted, strict=True):
            np.testing.assert_allclose(got.numpy(), a, rtol=1e-5, atol=1e-6)
        with pytest.raises((AssertionError, RuntimeError)):
            jt.sync([layers[0](weight[:, :3])])
