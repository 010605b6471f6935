"""Products and convolutions in half: what a GPU would compute, here in float32 with the same roundings."""

from graph_checks import leaves
from jboat import autodiff
from jboat.backend import half_arithmetic
from jboat.backend.replacements import half_products
from jboat.backend.replacements.dispatch import replaced
import jittor as jt
from jittor import nn
import numpy as np
import pytest

RNG = np.random.default_rng(5)
DIGITS = {"bf16": 8, "fp16": 11}
"""Binary digits of a number, the first one included."""


def rounded(a, kind):
    """The nearest numbers of the kind, ties to even, in float64."""
    a = np.asarray(a, dtype=np.float32)
    if kind == "fp16":
        return a.astype(np.float16).astype(np.float64)
    mantissa, exponent = np.frexp(a.astype(np.float64))
    return np.ldexp(np.rint(np.ldexp(mantissa, DIGITS[kind])), exponent - DIGITS[kind])


def in_half(kind):
    return replaced(half_products.in_half(half_arithmetic.emulated(kind)))


def arrays(*shapes):
    return [RNG.normal(size=shape).astype(np.float32) for shape in shapes]


def near(got, wanted, kind, steps=4):
    for g, w in zip(got, wanted, strict=True):
        assert np.abs(g.numpy() - w).max() <= steps * 2.0 ** -DIGITS[kind] * np.abs(w).max()


@pytest.mark.parametrize("kind", DIGITS)
def test_numbers_are_rounded_to_the_nearest_and_cotangents_too(kind):
    a = np.concatenate([*arrays(500), [0.0, 1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-11, -1 - 3 * 2.0**-11, 1e-40]])
    a = np.concatenate([a, [np.inf, -np.inf, 6e4 if kind == "fp16" else 3e38]]).astype(np.float32)
    (x,) = leaves([a])
    y = half_arithmetic.emulated(kind).halved(x)
    np.testing.assert_array_equal(y.numpy()[:-3], rounded(a[:-3], kind))
    np.testing.assert_array_equal(y.numpy()[-3:-1], a[-3:-1])
    (g,) = autodiff.vjp([y], [x], leaves([a[::-1].copy()]))
    np.testing.assert_array_equal(g.numpy()[3:], rounded(a[::-1][3:], kind))
    assert np.isnan(half_arithmetic.emulated(kind).halved(jt.array([np.nan])).numpy()).all()


@pytest.mark.parametrize("kind", DIGITS)
def test_a_product_and_its_derivatives(kind):
    a, b, c, va, vb = arrays((4, 5), (5, 3), (4, 3), (4, 5), (5, 3))
    x = leaves([a, b])
    with in_half(kind):
        y = x[0] @ x[1]
    assert y.dtype == "float32"
    ha, hb, hc = (rounded(v, kind) for v in (a, b, c))
    np.testing.assert_array_equal(y.numpy(), rounded(ha @ hb, kind))
    got = autodiff.vjp([y], x, leaves([c]))
    for g, wanted in zip(got, (hc @ hb.T, ha.T @ hc), strict=True):
        np.testing.assert_array_equal(g.numpy(), rounded(wanted, kind))

    # of the sum of the products' cubes; the exact numbers, from which the halves differ by some roundings
    products = autodiff.hvp((y * y * y).sum(), x, leaves([va, vb]))
    exact = a.astype(float) @ b
    along = va @ b.astype(float) + a.astype(float) @ vb
    by_y, second = 3 * exact**2, 6 * exact * along
    near(products, [second @ b.T + by_y @ vb.T, a.T @ second + va.T @ by_y], kind)
    assert np.abs(products[0].numpy() - (second @ b.T + by_y @ vb.T)).max() > 2.0 ** -DIGITS[kind] / 8


def test_every_shape_that_jittor_multiplies():
    shapes = [((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 2)), ((4, 2, 3), (3, 2)), ((2, 3, 4), (2, 4, 5))]
    shapes += [((4, 1, 2, 3), (5, 3, 2)), ((2, 3), (4, 3, 2)), ((4, 2, 3), (3,))]
    with in_half("fp16"):
        for a, b in (arrays(*pair) for pair in shapes):
            wanted = np.atleast_1d(rounded(rounded(a, "fp16") @ rounded(b, "fp16"), "fp16"))
            for multiply in (jt.matmul, nn.matmul, jt.Var.__matmul__):
                got = multiply(*leaves([a, b])).numpy()
                assert got.shape == wanted.shape
                np.testing.assert_array_equal(got, wanted)
        a, b, c = arrays((2, 3, 4), (2, 5, 4), (5, 4))
        halves = [rounded(v, "fp16") for v in (a, b, c)]
        transposed = nn.bmm_transpose(*leaves([a, b])).numpy(), nn.matmul_transpose(*leaves([a, c])).numpy()
        np.testing.assert_array_equal(transposed[0], rounded(halves[0] @ halves[1].transpose(0, 2, 1), "fp16"))
        np.testing.assert_array_equal(transposed[1], rounded(halves[0] @ halves[2].T, "fp16"))
        with pytest.raises(AssertionError):
            jt.ones((3, 4)) @ jt.ones((3, 4))


def test_a_bias_is_added_in_float32():
    layer = nn.Linear(5, 3)
    (x,) = arrays((4, 5))
    with in_half("bf16"):
        got, same = layer(jt.array(x)).numpy(), nn.linear(jt.array(x), layer.weight, layer.bias).numpy()
    weight, bias = layer.weight.numpy(), layer.bias.numpy()
    product = rounded(rounded(x, "bf16") @ rounded(weight, "bf16").T, "bf16").astype(np.float32)
    np.testing.assert_array_equal(got, product + bias)
    np.testing.assert_array_equal(same, got)


@pytest.mark.parametrize("kind", DIGITS)
def test_convolutions_beside_jittors(kind):
    layer = nn.Conv(4, 6, 3, stride=2, padding=1, groups=2)
    x, v, by_y = (jt.array(a) for a in arrays((2, 4, 5, 5), (2, 4, 5, 5), (2, 6, 3, 3)))
    halves = [jt.array(rounded(a.numpy(), kind).astype(np.float32)) for a in (x, layer.weight)]
    sizes = {"stride": 2, "padding": 1, "groups": 2}
    exact = nn.conv2d(*halves, layer.bias, **sizes)
    with in_half(kind):
        y = layer(x)
        by_function = nn.conv2d(x, layer.weight, layer.bias, **sizes)
    np.testing.assert_array_equal(by_function.numpy(), y.numpy())
    near([y], [exact.numpy()], kind, steps=1)
    assert np.abs(y.numpy() - exact.numpy()).max() > 2.0 ** -DIGITS[kind] / 8
    wrt = [x, layer.weight]
    exact = nn.conv2d(*wrt, layer.bias, **sizes)
    near(autodiff.vjp([y], wrt, [by_y]), [g.numpy() for g in autodiff.vjp([exact], wrt, [by_y])], kind)
    found, wanted = (autodiff.hvp((z * z * z).sum(), wrt, [v, layer.weight]) for z in (y, exact))
    near(found, [g.numpy() for g in wanted], kind, steps=8)


def test_other_numbers_are_left_to_jittor():
    a = np.ones((3, 4)) + 2.0**-30
    with in_half("bf16"), jt.flag_scope(auto_convert_64_to_32=0):
        product = jt.array(a) @ jt.array(a.T)
        integers = jt.ones((3, 4), dtype="int32") @ jt.ones((4, 2), dtype="int32")
    assert (product.dtype, integers.dtype) == ("float64", "int32")
    np.testing.assert_allclose(product.numpy(), a @ a.T, rtol=1e-12)
    assert (integers.numpy() == 4).all()
