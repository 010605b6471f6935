"""Products and convolutions of several pairs of arrays in one operation, and their derivatives, beside numpy."""

from graph_checks import close, leaves
from jboat import autodiff
from jboat.backend import cpu_ops
import numpy as np
import pytest
from test_jboat.backend.cpu_ops.test_convolutions import Convolution

OPERATIONS = cpu_ops.load()
RNG = np.random.default_rng(11)


@pytest.mark.parametrize("trans_a", [False, True])
@pytest.mark.parametrize("trans_b", [False, True])
def test_products(trans_a, trans_b):
    a, b, u, v = (RNG.normal(size=s) for s in ((3, 4, 5), (3, 5, 6), (3, 4, 5), (3, 5, 6)))
    turned = [x.swapaxes(1, 2) if turn else x for x, turn in ((a, trans_a), (b, trans_b), (u, trans_a), (v, trans_b))]
    at, along = leaves(turned[:2]), leaves(turned[2:])

    def half_of_squares():
        y = OPERATIONS.matrix_product(*at, trans_a, trans_b)
        return 0.5 * (y * y).sum()

    y, dy = a @ b, u @ b + a @ v
    found = half_of_squares()
    np.testing.assert_allclose(found.item(), 0.5 * (y**2).sum(), rtol=1e-5)
    gradient = [y @ b.swapaxes(1, 2), a.swapaxes(1, 2) @ y]
    product = [dy @ b.swapaxes(1, 2) + y @ v.swapaxes(1, 2), u.swapaxes(1, 2) @ y + a.swapaxes(1, 2) @ dy]
    for own, exact in ((autodiff.grad(found, at), gradient), (autodiff.hvp(half_of_squares(), at, along), product)):
        close(own, [x.swapaxes(1, 2) if turn else x for x, turn in zip(exact, (trans_a, trans_b), strict=True)])


def test_convolutions_with_their_biases():
    one = Convolution((3, 3), (2, 2), (1, 1), (1, 1), (7, 6))
    x, k, c = (RNG.normal(size=s) for s in ((3, 2, 2, 7, 6), (3, 4, 2, 3, 3), (3, 4)))
    u, v, w = (RNG.normal(size=a.shape) for a in (x, k, c))
    at, along = leaves([x, k, c]), leaves([u, v, w])
    sizes = [7, 6, 3, 3, 2, 2, 1, 1, 1, 1]

    def half_of_squares():
        y = OPERATIONS.convolution(at, "convolved", sizes)
        return 0.5 * (y * y).sum()

    def each(function, *arrays):
        return np.stack([function(*of_one) for of_one in zip(*arrays, strict=True)])

    y = each(one, x, k) + c[:, None, :, None, None]
    dy = each(one, u, k) + each(one, x, v) + w[:, None, :, None, None]
    found = half_of_squares()
    np.testing.assert_allclose(found.item(), 0.5 * (y**2).sum(), rtol=1e-5)
    close(autodiff.grad(found, at), [each(one.by_x, k, y), each(one.by_k, x, y), y.sum((1, 3, 4))])
    product = [
        each(one.by_x, k, dy) + each(one.by_x, v, y),
        each(one.by_k, x, dy) + each(one.by_k, u, y),
        dy.sum((1, 3, 4)),
    ]
    close(autodiff.hvp(half_of_squares(), at, along), product)
