"""NaN passes through ReLU, softmax and cross entropy, in values and derivatives, and nothing else becomes NaN."""

import time

from graph_checks import leaves
from jboat import autodiff
from jboat.backend import cpu_ops
from jboat.fast_gradients import fast_gradients
import jittor as jt
from jittor import nn
import numpy as np
import pytest

NAN, INFINITY = np.nan, np.inf


def value_and_derivatives(function, start, dtype="float32"):
    """Of the sum of ``function``'s squares: the values of ``function``, the gradient, and a Hessian-vector product."""
    x = jt.array(start, dtype=dtype)
    out = function(x)
    gradient = autodiff.grad((out * out).sum(), [x])
    return [v.numpy() for v in (out, *gradient, *autodiff.vjp(gradient, [x], [jt.ones(x.shape).cast(dtype)]))]


RELUS = {"function": lambda x: nn.relu(x), "layer": lambda x: nn.ReLU()(x)}


@pytest.mark.parametrize("relu", RELUS.values(), ids=RELUS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_relu_keeps_nan(relu, dtype):
    x = np.array([[NAN, 1.5, -2.0, 0.0], [-INFINITY, INFINITY, 3.0, -0.5]], dtype)
    value = np.array([[NAN, 1.5, 0.0, 0.0], [0.0, INFINITY, 3.0, 0.0]])
    slope = np.array([[NAN, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0]])
    with fast_gradients():
        got = value_and_derivatives(relu, x, dtype)
    for found, wanted in zip(got, (value, 2 * np.where(slope == 0, 0, value), 2 * slope), strict=True):
        np.testing.assert_array_equal(found, wanted)
        assert found.dtype == dtype


def test_relu_keeps_nan_where_no_operation_in_cpp_is_to_be_had(monkeypatch):
    monkeypatch.setattr(cpu_ops, "load", lambda: None)
    with fast_gradients():
        np.testing.assert_array_equal(nn.relu(jt.array(np.array([NAN, 1.0, -1.0]))).numpy(), [NAN, 1.0, 0.0])


def test_relu_keeps_nan_of_large_arrays_and_of_what_reaches_its_derivative():
    x = np.random.default_rng(0).normal(size=(300, 200)).astype("float32")
    x[::7, ::11] = NAN
    cotangent = np.ones_like(x)
    cotangent[::5, ::3] = NAN
    with fast_gradients():
        at = jt.array(x)
        out = nn.relu(at)
        np.testing.assert_array_equal(out.numpy(), np.maximum(x, 0))
        (found,) = autodiff.vjp([out], [at], [jt.array(cotangent)])
        first, second = jt.array(cotangent), jt.ones(x.shape)
        (of_sum,) = autodiff.grad((nn.relu(at) * first).sum() + (nn.relu(at) * second).sum(), [at])
    np.testing.assert_array_equal(found.numpy(), np.where(np.isnan(x), NAN, np.where(x > 0, cotangent, 0)))
    np.testing.assert_array_equal(of_sum.numpy(), np.where(np.isnan(x), NAN, np.where(x > 0, cotangent + 1, 0)))


@pytest.mark.parametrize("place", [0, 4, 16])
@pytest.mark.parametrize("shape", [(3, 17), (2, 3, 17)])
def test_softmax_keeps_nan_in_its_row(place, shape):
    x = np.random.default_rng(1).normal(size=shape)
    x[..., 1, place] = NAN
    rows = np.zeros(shape, bool)
    rows[..., 1, :] = True
    with fast_gradients():
        for found in value_and_derivatives(lambda x: nn.softmax(x, dim=-1), x):
            np.testing.assert_array_equal(np.isnan(found), rows)


LABELS = np.array([2, 1, 0, -1, 2, 5, -100])  # of seven rows of three classes


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("row", range(len(LABELS)))
def test_cross_entropy_keeps_nan_in_rows_that_count_and_in_others(row, reduction):
    x = np.random.default_rng(2).normal(size=(len(LABELS), 3)).astype("float32")
    x[row, 1] = NAN
    labels = jt.array(LABELS.astype("int32"))

    def derivatives():
        return value_and_derivatives(lambda x: nn.cross_entropy_loss(x, labels, reduction=reduction), x)

    jittors = [np.isnan(a) for a in derivatives()]
    in_row = np.isnan(x).any(1)
    with fast_gradients():
        loss, gradient, product = (np.isnan(a) for a in derivatives())
    np.testing.assert_array_equal(loss, in_row if reduction == "none" else [True])
    assert gradient[row].all()
    assert product[row].all()
    np.testing.assert_array_equal(gradient, jittors[1])
    np.testing.assert_array_equal(product, jittors[2])


def test_cross_entropy_of_rows_that_all_do_not_count():
    x, labels = np.zeros((2, 3), "float32"), jt.array(np.array([-1, 3], "int32"))

    def derivatives(reduction):
        return value_and_derivatives(lambda x: nn.cross_entropy_loss(x, labels, reduction=reduction), x)[:2]

    with fast_gradients():
        assert all(np.isnan(a).all() for a in derivatives("mean"))  # of no rows
        assert not any(a.any() for a in derivatives("sum"))


@pytest.mark.parametrize("dtype", ["int64", "int32", "int16", "int8", "uint8"])
def test_labels_of_every_integer_type(dtype):
    x = np.random.default_rng(3).normal(size=(4, 3))
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    labels = np.array([2, 0, 100, 1]).astype(dtype)
    counts = labels < 3
    wanted = [np.where(counts, -np.log(p[range(4), labels * counts]), 0.0)]
    wanted.append(counts[:, None] * (p - np.eye(3)[labels * counts]))
    with fast_gradients():
        at = leaves([x])
        losses = nn.cross_entropy_loss(at[0], jt.array(labels, dtype=dtype), reduction="none")
        for found, a in zip([losses, *autodiff.grad(losses.sum(), at)], wanted, strict=True):
            np.testing.assert_allclose(found.numpy(), a, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("label", [2**32, 2**32 + 1, -(2**32), 2**63 - 1, -(2**63)])
def test_labels_of_64_bits_are_not_cut(label):
    x = jt.array(np.zeros((2, 3), "float32"))
    labels = jt.array(np.array([label, 0]), dtype="int64")
    assert labels.numpy().tolist() == [label, 0]
    with fast_gradients():
        losses = nn.cross_entropy_loss(x, labels, reduction="none")
        (gradient,) = autodiff.grad(nn.cross_entropy_loss(x, labels), [x])
    np.testing.assert_allclose(losses.numpy(), [0.0, np.log(3)], rtol=1e-6)
    np.testing.assert_allclose(gradient.numpy(), [[0, 0, 0], [-2 / 3, 1 / 3, 1 / 3]], rtol=1e-6)


@pytest.mark.alone
def test_the_derivative_of_relu_by_sums_that_share_their_terms_is_quick():
    x = np.array([[1.0, -1.0, 2.0]], "float32")
    with fast_gradients():
        at = jt.array(x)
        out = nn.relu(at)
        sums = jt.array(np.ones_like(x))
        begun = time.perf_counter()
        for _ in range(22):
            sums = sums + sums
        (by_x,) = jt.grad(cpu_ops.load().inner_product([out, sums], True), [at])
        taken = time.perf_counter() - begun
    np.testing.assert_array_equal(by_x.numpy(), [[2.0**22, 0.0, 2.0**22]])
    assert taken < 1.0
