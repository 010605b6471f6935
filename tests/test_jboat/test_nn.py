"""Max pooling that can be differentiated twice, forwards, backwards and twice."""

from jboat import nn as jboat_nn
import jittor as jt
import numpy as np
import pytest

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(6, 1, 6, 6)).astype("float32")


def exact_pool(x, k, s, p):
    padded = np.pad(x, ((0, 0), (0, 0), (p, p), (p, p)), constant_values=-np.inf)
    out = [(n + 2 * p - k) // s + 1 for n in x.shape[2:]]
    rows = [
        [padded[:, :, i * s : i * s + k, j * s : j * s + k].max((2, 3)) for j in range(out[1])] for i in range(out[0])
    ]
    return np.stack([np.stack(r, -1) for r in rows], -2)


@pytest.mark.parametrize(("k", "s", "p"), [(2, 2, 0), (3, 2, 1), (3, 1, 0)])
def test_max_pooling_forwards(k, s, p):
    got = jboat_nn.max_pool2d(jt.array(IMAGES), k, s, p).numpy()
    np.testing.assert_array_equal(got, exact_pool(IMAGES, k, s, p))


def test_max_pooling_backwards_and_twice():
    """sum(pool(x)^3): the gradient at each window's maximum m is 3 m^2, the Hessian 6 m."""
    x = jt.array(IMAGES)
    pooled = jboat_nn.max_pool2d(x, 2)
    (gradient,) = jt.grad((pooled * pooled * pooled).sum(), [x])
    v = RNG.normal(size=IMAGES.shape).astype("float32")
    (product,) = jt.grad((gradient * jt.array(v)).sum(), [x])
    largest = exact_pool(IMAGES, 2, 2, 0).repeat(2, 2).repeat(2, 3) == IMAGES
    np.testing.assert_allclose(gradient.numpy(), 3 * IMAGES**2 * largest, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(product.numpy(), 6 * IMAGES * v * largest, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0,), "at least 1"), ((2, 2, 2), "half a window"), ((9,), "does not fit into 6 x 6")],
)
def test_max_pooling_refuses_sizes_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        jboat_nn.max_pool2d(jt.array(IMAGES), *arguments)
