"""The forms that operations get on a GPU have the right derivatives.

They run on a CPU here, with a batched product made of Jittor's operations in place of cuBLAS's.
"""

import threading

from graph_checks import close, leaves
from jboat import autodiff
from jboat.backend.replacements import by_device, convolution, matrix_product, recurrent
from jboat.backend.replacements.dispatch import replaced
import jittor as jt
from jittor import nn
from jittor.depthwise_conv import DepthwiseConv
from jittor.other import code_softmax
import numpy as np
import pytest

RNG = np.random.default_rng(3)


def multiply(a, b, transpose_a, transpose_b):
    """What cuBLAS's batched product computes."""
    a = a.transpose((0, 2, 1)) if transpose_a else a
    b = b.transpose((0, 2, 1)) if transpose_b else b
    return nn.bmm(a, b)


def difference(gradient, at, direction, eps=1e-5):
    sides = [gradient([a + sign * eps * v for a, v in zip(at, direction, strict=True)]) for sign in (1, -1)]
    return [(a - b) / (2 * eps) for a, b in zip(*sides, strict=True)]


@pytest.mark.parametrize("transposed", [False, True])
def test_products_of_matrices_and_their_derivatives(transposed):
    a, b = RNG.normal(size=(4, 5)), RNG.normal(size=(3, 5) if transposed else (5, 3))
    v = [RNG.normal(size=a.shape), RNG.normal(size=b.shape)]

    def gradient(at):
        """Of the sum of the products' cubes, in numpy."""
        second = at[1].T if transposed else at[1]
        by_product = 3 * (at[0] @ second) ** 2
        return [by_product @ second.T, (by_product.T @ at[0]) if transposed else at[0].T @ by_product]

    called = []

    def counted(*args):
        called.append(args)
        return multiply(*args)

    with replaced(matrix_product.on_cuda(counted)):
        x = leaves([a, b])
        y = nn.matmul_transpose(*x) if transposed else x[0] @ x[1]
        loss = (y * y * y).sum()
        close(autodiff.grad(loss, x), gradient([a, b]))
        close(autodiff.hvp(loss, x, leaves(v)), difference(gradient, [a, b], v))
    assert len(called) == 1


def test_other_products_are_jittors():
    with replaced(matrix_product.on_cuda(lambda *args: pytest.fail("for two matrices alone"))):
        batch = jt.ones((2, 3, 4)) @ jt.ones((2, 4, 5))
        vector = jt.ones((3, 4)) @ jt.ones(4)
        integers = jt.ones((3, 4), dtype="int32") @ jt.ones((4, 2), dtype="int32")
        with pytest.raises(AssertionError):
            jt.ones((3, 4)) @ jt.ones((3, 4))
    assert (batch.shape, vector.shape, integers.shape) == ((2, 3, 5), (3,), (3, 2))


def patches(x, kernel, stride, padding, dilation):
    """Index arrays of every window of an image that has been padded, and the padded images."""
    padded = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in padding)))
    starts = [
        np.arange((n - (k - 1) * d - 1) // s + 1) * s
        for n, k, s, d in zip(padded.shape[2:], kernel, stride, dilation, strict=True)
    ]
    rows = starts[0][:, None, None, None] + np.arange(kernel[0])[None, None, :, None] * dilation[0]
    columns = starts[1][None, :, None, None] + np.arange(kernel[1])[None, None, None, :] * dilation[1]
    return padded, rows, columns


def convolved(x, w, bias, stride, padding, dilation, groups):
    """The convolution in numpy, and its gradients by x, w and bias for a given gradient by the result."""
    padded, rows, columns = patches(x, w.shape[2:], stride, padding, dilation)
    windows = padded[:, :, rows, columns]  # [n, c, h', w', kh, kw]
    n, c, h, wide, *kernel = windows.shape
    grouped = windows.reshape(n, groups, c // groups, h, wide, *kernel)
    weight = w.reshape(groups, -1, *w.shape[1:])
    y = np.einsum("ngchwkl,gockl->ngohw", grouped, weight).reshape(n, -1, h, wide) + bias[None, :, None, None]

    def gradients(by_y):
        of_groups = by_y.reshape(n, groups, -1, h, wide)
        by_w = np.einsum("ngohw,ngchwkl->gockl", of_groups, grouped).reshape(w.shape)
        by_windows = np.einsum("ngohw,gockl->ngchwkl", of_groups, weight).reshape(windows.shape)
        by_padded = np.zeros_like(padded)
        np.add.at(by_padded, (slice(None), slice(None), rows, columns), by_windows)
        inner = by_padded[:, :, padding[0] : by_padded.shape[2] - padding[0]]
        return [inner[..., padding[1] : by_padded.shape[3] - padding[1]], by_w, by_y.sum((0, 2, 3))]

    return y, gradients


CONVOLUTIONS = {
    "plain": ((2, 2, 5, 6), (3, 2, 3, 2), (1, 1), (0, 0), (1, 1), 1),
    "strides and padding": ((2, 2, 5, 6), (3, 2, 3, 3), (2, 1), (1, 2), (1, 1), 1),
    "dilation": ((1, 2, 7, 6), (2, 2, 2, 2), (1, 2), (1, 0), (3, 2), 1),
    "groups": ((2, 4, 5, 5), (6, 2, 3, 3), (1, 2), (1, 1), (1, 1), 2),
    "depthwise": ((2, 3, 5, 5), (3, 1, 3, 3), (1, 1), (1, 1), (1, 1), 3),
    "pointwise": ((2, 3, 4, 1), (2, 3, 1, 1), (1, 1), (0, 0), (1, 1), 1),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions_as_products_and_their_derivatives(case):
    shape, kernel, *sizes = CONVOLUTIONS[case]
    at = [RNG.normal(size=shape), RNG.normal(size=kernel), RNG.normal(size=kernel[0])]
    v = [RNG.normal(size=a.shape) for a in at]

    def gradient(arrays):
        y, gradients = convolved(*arrays, *sizes)
        return gradients(3 * y**2)

    x = leaves(at)
    conv2d = convolution.on_cuda_without_cudnn(multiply)[nn, "conv2d"]
    y = conv2d(*x, *sizes)
    close([y], [convolved(*at, *sizes)[0]])
    loss = (y * y * y).sum()
    close(autodiff.grad(loss, x), gradient(at))
    close(autodiff.hvp(loss, x, leaves(v)), difference(gradient, at, v))


def test_a_layer_of_convolutions_uses_them():
    layer = nn.Conv(4, 6, 3, stride=2, padding=1, groups=2)
    x = jt.array(RNG.normal(size=(2, 4, 5, 5)).astype("float32"))
    expected = layer(x).numpy()
    called = []

    def counted(*args):
        called.append(args)
        return multiply(*args)

    with replaced(convolution.on_cuda_without_cudnn(counted)):
        close([layer(x)], [expected])
    assert len(called) == 1


def test_what_jittor_derives_by_hand_on_a_gpu_is_what_it_is_on_a_cpu():
    x, w = leaves([RNG.normal(size=(2, 3, 4, 4)), RNG.normal(size=(3, 1, 3, 3))])
    with replaced(by_device.on_cuda()):
        assert not code_softmax.can_softmax_v1(x, -1)
        y = DepthwiseConv(1, 1, 1)(x, w)
        close([y], [convolved(x.numpy(), w.numpy(), np.zeros(3), (1, 1), (1, 1), (1, 1), 3)[0]])


def test_recurrent_layers_run_without_cudnn(monkeypatch):
    monkeypatch.setattr(jt, "cudnn", "cuDNN")
    seen = []

    def execute(layer, fails=False):
        seen.append(jt.cudnn)
        if fails:
            raise ArithmeticError
        return layer

    layer = recurrent.without_cudnn(execute)
    assert layer("layer") == "layer"
    with pytest.raises(ArithmeticError):
        layer("layer", fails=True)
    assert seen == [None, None]
    assert jt.cudnn == "cuDNN"


def test_nobody_else_is_without_cudnn_meanwhile(monkeypatch):
    monkeypatch.setattr(jt, "cudnn", "cuDNN")
    seen = {}

    def elsewhere(place):
        seen[place] = jt.cudnn

    def execute():
        elsewhere("called")
        thread = threading.Thread(target=elsewhere, args=("thread",))
        thread.start()
        thread.join()
        return jt.cudnn

    assert recurrent.without_cudnn(execute)() is None
    assert seen == {"called": "cuDNN", "thread": "cuDNN"}


@pytest.mark.parametrize("layer", [nn.RNN, nn.LSTM, nn.GRU])
def test_recurrent_layers_are_jittors_own_without_cudnn(layer, monkeypatch):
    """Their code asks ``jt`` for cuDNN, and finds ours, whose absence leads to what a CPU runs."""
    model, x = layer(3, 4), jt.array(RNG.normal(size=(5, 2, 3)).astype("float32"))
    assert layer.execute is nn.RNNBase.execute
    assert vars(recurrent)["_JITTORS"].__globals__["jt"] is jt
    expected = model(x)[0].numpy()
    asked = []
    monkeypatch.setattr(
        recurrent._JittorWithoutCudnn, "flags", property(lambda self: asked.append(1) or On), raising=False
    )
    monkeypatch.setattr(layer, "_execute_cudnn_rnn", lambda *args: pytest.fail("cuDNN"))
    with replaced(recurrent.on_cuda()):
        np.testing.assert_allclose(model(x)[0].numpy(), expected, rtol=1e-5, atol=1e-6)  # fused otherwise
    assert asked


class On:
    """Jittor's flags where CUDA is on."""

    use_cuda = 1
