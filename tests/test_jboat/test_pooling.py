"""Pooling by windows: values and derivatives of two orders against numpy in float64, and as Jittor's layers have it."""

import itertools

from graph_checks import close, kernels_of, leaves
from jboat import autodiff
from jboat import nn as jboat_nn
from jboat.fast_gradients import fast_gradients
import jittor as jt
from jittor import nn
import numpy as np
import pytest

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(2, 3, 7, 5))
VOLUMES = RNG.normal(size=(2, 2, 5, 4, 5))
LARGEST = float(np.finfo(np.float32).max)

LAYERS = {
    "plain": (nn.Pool(2, 2), IMAGES),
    "overlapping": (nn.Pool(3, 2, 1), IMAGES),
    "unequal": (nn.Pool((3, 2), (2, 1), (1, 0), ceil_mode=True), IMAGES),
    "past the edge": (nn.Pool(1, 4, ceil_mode=True), IMAGES),
    "minimum": (nn.Pool(3, 2, 1, op="minimum"), IMAGES),
    "mean": (nn.Pool(2, 2, ceil_mode=True, op="mean"), IMAGES),
    "mean without padding": (nn.Pool(3, 2, 1, ceil_mode=True, count_include_pad=False, op="mean"), IMAGES),
    "mean with padding": (nn.Pool(3, 2, 1, ceil_mode=True, op="mean"), IMAGES),
    "volume": (nn.Pool3d(2, 2, 1, ceil_mode=True), VOLUMES),
    "volume's mean": (nn.Pool3d((2, 1, 2), 2, ceil_mode=True, op="mean"), VOLUMES),
    "adaptive": (nn.AdaptiveMaxPool2d((3, None)), IMAGES),
    "adaptive to one": (nn.AdaptiveMaxPool2d(1), IMAGES),
    "adaptive volume": (nn.AdaptiveMaxPool3d((2, 1, 2)), VOLUMES),
}


def windows_of(layer, image):
    """Kernel, stride, padding, and how many windows, as Jittor's layers say."""
    if hasattr(layer, "kernel_size"):
        extra = [s - 1 if layer.ceil_mode else 0 for s in layer.stride]
        sizes = zip(image, layer.kernel_size, layer.stride, layer.padding, extra, strict=True)
        return layer.kernel_size, layer.stride, layer.padding, [(n + 2 * p - k + e) // s + 1 for n, k, s, p, e in sizes]
    wanted = layer.output_size
    wanted = (wanted,) * len(image) if isinstance(wanted, int) else wanted
    counts = [n if count is None else count for n, count in zip(image, wanted, strict=True)]
    stride = [n // count for n, count in zip(image, counts, strict=True)]
    kernel = [n - (count - 1) * s for n, count, s in zip(image, counts, stride, strict=True)]
    return kernel, stride, [0] * len(image), counts


def weights_of(layer, x):
    """By window, what its value is made of: an array [n, c, *counts, *image] whose product with x sums to the values.

    A window of padding has no weights and, for an extreme, the value that Jittor starts from.
    """
    op = getattr(layer, "op", "maximum")
    kernel, stride, padding, counts = windows_of(layer, x.shape[2:])
    weights = np.zeros((*x.shape[:2], *counts, *x.shape[2:]))
    start = np.zeros((*x.shape[:2], *counts))
    for at in itertools.product(*map(range, weights.shape[: 2 + len(counts)])):
        begin = [a * s - p for a, s, p in zip(at[2:], stride, padding, strict=True)]
        ranges = [range(max(b, 0), min(b + k, n)) for b, k, n in zip(begin, kernel, x.shape[2:], strict=True)]
        places = list(itertools.product(*ranges))
        if op == "mean":
            whole = np.prod(kernel) if layer.count_include_pad else len(places)
            for place in places:
                weights[at + place] = 1.0 / whole
        elif places:
            values = [x[at[:2] + place] for place in places]
            weights[at + places[int((np.argmax if op == "maximum" else np.argmin)(values))]] = 1.0
        else:
            start[at] = -LARGEST if op == "maximum" else LARGEST
    return weights, start


@pytest.mark.parametrize("name", LAYERS)
def test_values_and_derivatives(name):
    """value = W x with constant W: of sum(a value^3) the gradient is 3 W'(a value^2), H v = 6 W'(a value W v)."""
    layer, x = LAYERS[name]
    x32 = x.astype("float32").astype("float64")
    weights, start = weights_of(layer, x32)
    axes = list(range(weights.ndim - (x.ndim - 2), weights.ndim))

    def pooled(array):
        return (weights * array.reshape(*x.shape[:2], *(1,) * (x.ndim - 2), *x.shape[2:])).sum(tuple(axes))

    def back(array):
        return (weights * array.reshape(*array.shape, *(1,) * (x.ndim - 2))).sum(tuple(range(2, x.ndim)))

    wanted = pooled(x32)
    a = RNG.normal(size=wanted.shape).astype("float32").astype("float64") * (start == 0.0)
    v = RNG.normal(size=x.shape).astype("float32").astype("float64")
    (leaf,) = leaves([x])
    with fast_gradients():
        value = layer(leaf)
        np.testing.assert_allclose(value.numpy(), wanted + start, rtol=1e-6, atol=1e-6)
        known = jt.ternary(jt.array(start == 0.0), value, jt.zeros(value.shape))
        (gradient,) = autodiff.grad((jt.array(a.astype("float32")) * known * known * known).sum(), [leaf])
        (product,) = autodiff.vjp([gradient], [leaf], leaves([v]))
    close([gradient], [3.0 * back(a * wanted**2)])
    close([product], [6.0 * back(a * wanted * pooled(v))])


@pytest.mark.parametrize("name", [name for name in LAYERS if not name.startswith("adaptive")])
def test_values_are_jittors_own(name):
    layer, x = LAYERS[name]
    (leaf,) = leaves([x])
    own = layer(leaf).numpy()
    with fast_gradients():
        np.testing.assert_allclose(layer(leaf).numpy(), own, rtol=1e-6, atol=1e-6)


def test_indices_are_jittors_own_and_the_values_have_derivatives():
    layer = nn.Pool(3, 2, 1, return_indices=True)
    (leaf,) = leaves([IMAGES])
    own = [v.numpy() for v in layer(leaf)]
    with fast_gradients():
        values, indices = layer(leaf)
        (gradient,) = autodiff.grad((values * values).sum(), [leaf])
    np.testing.assert_array_equal(values.numpy(), own[0])
    np.testing.assert_array_equal(indices.numpy(), own[1])
    x = IMAGES.astype("float32").astype("float64")
    wanted = np.zeros(x.shape)
    for at in np.ndindex(own[0].shape):
        wanted[at[:2]].ravel()[own[1][at]] += 2.0 * own[0][at]
    close([gradient], [wanted])


CONSTANT = np.full((1, 1, 6, 6), 0.7)
WEIGHT = RNG.normal(size=(2, 1, 3, 3))


def pooled_by_numpy(weight):
    """A blank image, convolved without padding and pooled, is one number a channel."""
    return 4.0 * (np.tanh(0.7 * weight.sum((1, 2, 3))) ** 2).sum()


@pytest.mark.parametrize(
    "pool",
    [nn.MaxPool2d(2, 2), jboat_nn.MaxPool2d(2), nn.AdaptiveMaxPool2d(2)],
    ids=["Jittor", "jboat", "adaptive"],
)
def test_equal_entries_share_one_derivative(pool):
    (weight,) = leaves([WEIGHT])
    (x,) = leaves([CONSTANT])
    w = WEIGHT.astype("float32").astype("float64")
    direction = RNG.normal(size=WEIGHT.shape).astype("float32").astype("float64")
    with fast_gradients():
        value = pool(jt.tanh(nn.conv2d(x, weight)))
        (gradient,) = autodiff.grad((value * value).sum(), [weight])
        (product,) = autodiff.vjp([gradient], [weight], leaves([direction]))
    step = 1e-4
    slope = (pooled_by_numpy(w + step * direction) - pooled_by_numpy(w - step * direction)) / (2 * step)
    bend = (
        pooled_by_numpy(w + step * direction) + pooled_by_numpy(w - step * direction) - 2 * pooled_by_numpy(w)
    ) / step**2
    np.testing.assert_allclose((gradient.numpy() * direction).sum(), slope, rtol=1e-3)
    np.testing.assert_allclose((product.numpy() * direction).sum(), bend, rtol=1e-3)


@pytest.mark.parametrize("name", ["overlapping", "minimum", "volume"])
def test_float64_as_float32(name):
    """Other types than float32, and every type on a GPU, are computed by operations of Jittor's own."""
    layer, x = LAYERS[name]
    gradients = []
    with fast_gradients():
        for leaf in (jt.array(x.astype("float32")), jt.array(x.astype("float32")).float64()):
            value = layer(leaf)
            gradients.append([v.numpy() for v in (value, *jt.grad((value * value).sum(), [leaf]))])
    assert [v.dtype for v in gradients[1]] == ["float64", "float64"]
    for got, wanted in zip(gradients[1], gradients[0], strict=True):
        np.testing.assert_allclose(np.clip(got, -LARGEST, LARGEST), wanted, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("op", ["maximum", "minimum"])
def test_nan_and_infinity_are_kept(op, dtype):
    x = IMAGES.astype("float32")
    x[0, 0, 0, 0] = np.nan
    x[1, 1, 1, 1] = np.nan
    x[1, 1, 0, 0] = np.inf if op == "maximum" else -np.inf
    x[1, 2, 2:4, 2:4] = -np.inf if op == "maximum" else np.inf
    leaf = jt.array(x).cast(dtype)
    with fast_gradients():
        value = nn.Pool(2, 2, op=op)(leaf)
        (gradient,) = autodiff.grad(value.sum(), [leaf])
    value, gradient = value.numpy(), gradient.numpy()
    assert np.isnan(value[0, 0, 0, 0])
    assert np.isnan(value[1, 1, 0, 0])
    assert np.isnan(value).sum() == 2
    assert value[1, 2, 1, 1] == x[1, 2, 2, 2]
    np.testing.assert_array_equal(gradient[1, 2, 2:4, 2:4], [[1.0, 0.0], [0.0, 0.0]])
    assert gradient[0, 0, 0, 0] == 1.0


def test_other_types_and_other_operations_stay_jittors():
    whole = jt.array((10 * IMAGES).astype("int32"))
    with fast_gradients():
        np.testing.assert_array_equal(
            nn.Pool(2, 2)(whole).numpy()[0, 0, 0, 0], (10 * IMAGES).astype("int32")[0, 0, :2, :2].max()
        )
        with pytest.raises(RuntimeError, match="larger than kernel_size"):
            nn.Pool(7, 1)(jt.array(IMAGES.astype("float32")))


def test_windows_are_not_stored():
    """One kernel finds the places, one reads the values."""
    (leaf,) = leaves([IMAGES])
    with fast_gradients():
        assert len(kernels_of(lambda: [nn.Pool(3, 2, 1)(leaf)])) <= 2
