"""Convolutions, what is added to their channels, and the derivatives of both."""

from graph_checks import close, kernels_of, leaves
from jboat import autodiff
from jboat.fast_gradients import fast_gradients
import jittor as jt
from jittor import nn
import numpy as np
import pytest

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (6, 5, 24, 32)])
def test_derivatives_by_what_is_added_to_channels(shape):
    rng = np.random.default_rng(7)
    a, b, v = rng.normal(size=shape), rng.normal(size=shape[1]), rng.normal(size=shape[1])
    out = a + b[:, None, None]

    def value(b):
        images = jt.array(a.astype("float32"))
        return ((images + b[0].broadcast(images.shape, [0, 2, 3])) ** 3).sum()

    with fast_gradients():
        at, along = leaves([b]), leaves([v])
        np.testing.assert_allclose(value(at).item(), (out**3).sum(), rtol=1e-5, atol=1e-5 * (abs(out) ** 3).sum())
        close(autodiff.grad(value(at), at), [(3 * out**2).sum((0, 2, 3))])
        close(autodiff.hvp(value(at), at, along), [(6 * out).sum((0, 2, 3)) * v])
        third = autodiff.vjp(autodiff.vjp(autodiff.grad(value(at), at), at, along), at, along)
        close(third, [6 * a[:, 0].size * v * v])


def test_gradients_by_the_bias_of_a_convolution_need_no_kernel_that_sums():
    images, layer = jt.array(RNG.normal(size=(2, 3, 6, 6)).astype("float32")), nn.Conv(3, 4, 3)

    def gradient():
        return autodiff.grad((layer(images) ** 2).sum(), [layer.bias])

    def sums_over_channels(names):
        return [n for n in names if "reduce" in n and "DIM=4" in n and "REDUCE=d" in n]

    wanted = gradient()[0].numpy()
    assert sums_over_channels(kernels_of(gradient))
    with fast_gradients():
        assert not sums_over_channels(kernels_of(gradient))
        np.testing.assert_allclose(gradient()[0].numpy(), wanted, rtol=1e-5)


class Convolution:
    """A convolution and its derivatives in numpy, float64."""

    def __init__(self, kernel, stride, padding, dilation, size):
        self.kernel, self.stride, self.padding, self.dilation, self.size = kernel, stride, padding, dilation, size
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
        self.places = [(n + 2 * p - r) // s + 1 for n, p, r, s in zip(size, padding, reach, stride, strict=True)]

    def windows(self):
        """Of each entry of the kernel, the places of the padded image that it meets."""
        for entry in np.ndindex(*self.kernel):
            axes = zip(entry, self.stride, self.dilation, self.places, strict=True)
            yield entry, (..., *(slice(e * d, e * d + s * n, s) for e, s, d, n in axes))

    def padded(self, x):
        return np.pad(x, [(0, 0), (0, 0), *((p, p) for p in self.padding)])

    def __call__(self, x, k):
        x = self.padded(x)
        return sum(np.einsum("nihw,oi->nohw", x[window], k[:, :, a, b]) for (a, b), window in self.windows())

    def by_x(self, k, y):
        out = self.padded(np.zeros((len(y), k.shape[1], *self.size)))
        for (a, b), window in self.windows():
            out[window] += np.einsum("nohw,oi->nihw", y, k[:, :, a, b])
        (p, q), (h, w) = self.padding, self.size
        return out[:, :, p : p + h, q : q + w]

    def by_k(self, x, y):
        x = self.padded(x)
        found = [np.einsum("nohw,nihw->oi", y, x[window]) for _, window in self.windows()]
        return np.stack(found, axis=-1).reshape(y.shape[1], x.shape[1], *self.kernel)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "stride", "padding", "dilation"),
    [
        (3, 4, (3, 3), (1, 1), (1, 1), (1, 1)),
        (2, 5, (3, 2), (2, 1), (0, 2), (1, 3)),
        (18, 16, (3, 3), (1, 1), (1, 1), (1, 1)),
        (17, 20, (1, 4), (3, 2), (2, 0), (2, 1)),
    ],
)
def test_convolutions_and_their_derivatives(inputs, outputs, kernel, stride, padding, dilation, bias):
    rng = np.random.default_rng(8)
    size = (9, 8)
    convolve = Convolution(kernel, stride, padding, dilation, size)
    shapes = [(2, inputs, *size), (outputs, inputs, *kernel), (outputs,)]
    (x, k, c), (dx, dk, dc) = ([rng.normal(size=s) for s in shapes] for _ in range(2))
    c, dc = c * bias, dc * bias
    out = convolve(x, k) + c[:, None, None]
    change = convolve(dx, k) + convolve(x, dk) + dc[:, None, None]
    weight = rng.normal(size=out.shape)
    by_out, by_out_changed = 2 * weight * out, 2 * weight * change  # of sum(weight * out ** 2), and along (dx, dk, dc)
    wanted = [
        convolve.by_x(dk, by_out) + convolve.by_x(k, by_out_changed),
        convolve.by_k(dx, by_out) + convolve.by_k(x, by_out_changed),
        by_out_changed.sum((0, 2, 3)),
    ]
    at, along = (leaves([*arrays, *others[:bias]]) for arrays, others in (((x, k), (c,)), ((dx, dk), (dc,))))
    with fast_gradients():
        got = nn.conv2d(*at, stride=stride, padding=padding, dilation=dilation)
        close([got], [out])
        loss = (jt.array(weight.astype("float32")) * got * got).sum()
        gradient = [convolve.by_x(k, by_out), convolve.by_k(x, by_out), by_out.sum((0, 2, 3))]
        close(autodiff.grad(loss, at), gradient[: len(at)])
        close(autodiff.hvp(loss, at, along), wanted[: len(at)])


def test_gradients_of_convolutions_wherever_their_memory_lies():
    rng = np.random.default_rng(12)
    convolve = Convolution((3, 3), (1, 1), (1, 1), (1, 1), (4, 4))
    kept = []  # so that every gradient, and what oneDNN lays out anew for it, is somewhere else
    with fast_gradients():
        for count in range(100, 200, 4):
            x, y = rng.normal(size=(2, count, 8, 4, 4))
            images, kernel, cotangent = leaves([x, rng.normal(size=(8, 8, 3, 3)), y])
            found = autodiff.grad((nn.conv2d(images, kernel, padding=1) * cotangent).sum(), [images, kernel])
            close(found, [convolve.by_x(kernel.numpy(), y), convolve.by_k(x, y)])
            kept += found


def test_layers_of_convolutions_have_the_same_values_and_errors():
    rng = np.random.default_rng(9)
    images, row = (jt.array(rng.normal(size=s).astype("float32")) for s in [(2, 4, 6, 6), (2, 4, 9)])
    layers = [nn.Conv(4, 3, 3, stride=2), nn.Conv2d(4, 3, 2, padding=1, bias=False), nn.Conv(4, 6, 3, groups=2)]
    line = nn.Conv1d(4, 2, 3)

    def values():
        functions = [nn.conv2d(images, layers[2].weight, groups=2), nn.conv(images, layers[0].weight, dilation=2)]
        return [*(layer(images) for layer in layers), line(row), *functions]

    wanted = [v.numpy() for v in values()]
    with fast_gradients():
        for got, a in zip(values(), wanted, strict=True):
            np.testing.assert_allclose(got.numpy(), a, rtol=1e-4, atol=1e-5)
        for channels, size in ((5, 6), (4, 1)):
            with pytest.raises((AssertionError, RuntimeError)):
                jt.sync([layers[0](jt.ones((2, channels, size, size)))])
