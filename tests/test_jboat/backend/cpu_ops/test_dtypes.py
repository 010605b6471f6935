"""Operations in C++ beside Vars of every other type: their derivatives are those of the numbers, whatever the type."""

from graph_checks import close
from jboat import autodiff
from jboat.backend import cpu_ops
import jittor as jt
import numpy as np
import pytest

DTYPES = ["float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "float32"]
BESIDE_ALL = {"float64", "float16", "int64"}
COUNT = 12  # numbers of the one array that all inputs of an operation are made of


def softmax_of(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def losses_of(z, labels):
    return -np.log(softmax_of(z)[range(len(z)), labels])


LABELS = np.array([2, 0, 1, 2])

# by name: of the array v in Jittor, with the operations, and in numpy
OPERATIONS = {
    "matrix_product": (
        lambda o, v: o.matrix_product(v.reshape((4, 3)), v.reshape((4, 3)), False, True),
        lambda v: v.reshape(4, 3) @ v.reshape(4, 3).T,
    ),
    "linear": (
        lambda o, v: o.linear(v.reshape((4, 3)), v.reshape((4, 3)), v.reshape((4, 3))[:, 1]),
        lambda v: v.reshape(4, 3) @ v.reshape(4, 3).T + v.reshape(4, 3)[:, 1],
    ),
    "linear_gradients by weight": (
        lambda o, v: o.linear_gradients(v.reshape((4, 3)), v.reshape((4, 3)))[0],
        lambda v: v.reshape(4, 3).T @ v.reshape(4, 3),
    ),
    "linear_gradients by bias": (
        lambda o, v: o.linear_gradients(v.reshape((4, 3)), v.reshape((4, 3)))[1],
        lambda v: v.reshape(4, 3).sum(0),
    ),
    "convolution": (
        lambda o, v: o.convolution(
            [v.reshape((1, 1, 3, 4)), v.reshape((12, 1, 1, 1)), v], "convolved", [3, 4, 1, 1, 1, 1, 0, 0, 1, 1]
        ),
        lambda v: v[:, None] * v + v[:, None],
    ),
    "channels": (lambda o, v: o.channels(v, 2, 1, 2), lambda v: np.repeat(np.tile(v, 2), 2)),
    "sums of channels": (
        lambda o, v: o.channels(v.reshape((2, 3, 1, 2)), 2, 1, 2),
        lambda v: v.reshape(2, 3, 2).sum((0, 2)),
    ),
    "softmax": (
        lambda o, v: o.cross_entropy([v.reshape((4, 3))], "softmax", 3),
        lambda v: softmax_of(v.reshape(4, 3)),
    ),
    "losses": (
        lambda o, v: o.cross_entropy([v.reshape((4, 3)), jt.array(LABELS.astype("int32"))], "losses", 3),
        lambda v: losses_of(v.reshape(4, 3), LABELS),
    ),
    "mean": (
        lambda o, v: o.cross_entropy([v * v, jt.array(np.zeros(COUNT, "int32"))], "mean", 3),
        lambda v: (v * v).mean(),
    ),
    "rectified": (lambda o, v: o.rectified([v]), lambda v: np.maximum(v, 0)),
    "combination": (lambda o, v: o.combination([v, v], 2.0, -0.5), lambda v: 1.5 * v),
    "combination of one": (lambda o, v: o.combination([v], 1.0, 0.0), lambda v: v),
    "scaled": (lambda o, v: o.scaled(v, o.inner_product([v, v])), lambda v: (v @ v) * v),
    "inner_product": (lambda o, v: o.inner_product([v, v]), lambda v: v @ v),
}


def derivatives(function, start, along):
    """The first three derivatives of a smooth function at ``start``, by a polynomial through its values around it."""
    steps = 0.02 * np.arange(-5, 6)
    coefficients = np.polynomial.polynomial.polyfit(steps, [function(start + t * along) for t in steps], len(steps) - 1)
    return coefficients[1:4] * [1, 2, 6]


def pairs():
    """Every type beside one operation, and every operation beside some types; all others take minutes to compile."""
    every = []
    for name, functions in OPERATIONS.items():
        for dtype in DTYPES:
            few = name == "matrix_product" or dtype in BESIDE_ALL
            every.append(pytest.param(*functions, dtype, id=f"{name}-{dtype}", marks=() if few else pytest.mark.long))
    return every


@pytest.mark.parametrize(("in_jittor", "in_numpy", "dtype"), pairs())
def test_derivatives_beside_other_types(in_jittor, in_numpy, dtype):
    """Of the fourth power of the length of what is weighted, along a direction; all but the weighing is done in C++."""
    rng, o = np.random.default_rng(0), cpu_ops.load()
    start = rng.uniform(0.5, 1.0, COUNT) * rng.choice([-1, 1], COUNT)
    size = in_numpy(start).size
    most = 2 if dtype == "bool" else 3
    weights, along = (np.arange(size) // 3 + 1) % most, np.arange(COUNT) % most
    v, ones, *others = (jt.array(a.astype("float32")) for a in (start, np.ones(COUNT), weights, along))
    typed_weights, direction = (a.cast(dtype) for a in others)
    jt.sync([v, ones, typed_weights, direction])
    weighted = o.combination([(in_jittor(o, v).reshape((-1,)) * typed_weights).float32()], 1.0, 0.0)
    square, got = o.inner_product([weighted, weighted]), []
    value = o.inner_product([square, square])
    for _ in range(3):
        (gradient,) = autodiff.grad(value, [v])
        assert gradient.shape == v.shape
        value = o.inner_product([(gradient * direction).float32(), ones])
        got.append(value.item())
    wanted = derivatives(lambda v: np.sum((weights * in_numpy(v).ravel()) ** 2) ** 2, start, along)
    assert (abs(wanted) > 1e-3).all()
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4 * abs(wanted).max())


def test_weights_of_another_type_in_a_loss_of_a_model():
    """As in a lower objective: per-sample weights in float64 give the gradients of those in float32."""
    rng = np.random.default_rng(1)
    x, weights = rng.normal(size=(4, 3)), np.linspace(1, 2, 4)
    layer = rng.normal(size=(3, 3))
    o = cpu_ops.load()

    def gradient(dtype):
        w = jt.array(layer.astype("float32"))
        scores = o.matrix_product(jt.array(x.astype("float32")), w, False, True)
        losses = o.cross_entropy([scores, jt.array(LABELS.astype("int32"))], "losses", 3)
        return autodiff.grad((losses * jt.array(weights, dtype=dtype)).mean(), [w])

    p = softmax_of(x @ layer.T)
    by_scores = weights[:, None] * (p - np.eye(3)[LABELS]) / 4
    for dtype in ("float32", "float64"):
        close(gradient(dtype), [by_scores.T @ x])


FLOATS, WIDE = jt.ones((2, 3)), jt.ones((2, 3)).float64()
INTEGERS = jt.array(np.array([0, 1], "int32"))
IMAGES, KERNEL = jt.ones((1, 2, 3, 3)), jt.ones((2, 2, 2, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda o: o.matrix_product(WIDE, FLOATS, False, True), "matrix_product: a must be float32, but is float64"),
        (
            lambda o: o.matrix_product(FLOATS, FLOATS, False, False),
            r"b must have the shape \[3, any\], but has \[2, 3\]",
        ),
        (
            lambda o: o.matrix_product(FLOATS, jt.ones(3), False, False),
            r"b must have the shape \[3, any\], but has \[3\]",
        ),
        (lambda o: o.linear(FLOATS, FLOATS, jt.ones(3)), r"linear: bias must have the shape \[2\], but has \[3\]"),
        (lambda o: o.linear(FLOATS, FLOATS, INTEGERS), "linear: bias must be float32, but is int32"),
        (lambda o: o.linear_gradients(FLOATS, IMAGES), r"linear_gradients: x must have the shape \[2, any\]"),
        (
            lambda o: o.channels(IMAGES[0], 1, 1, 1),
            r"channels: x must have the shape \[1, any, 1, 1\], but has \[2, 3, 3\]",
        ),
        (
            lambda o: o.matrix_product(jt.ones((2, 2, 3)), jt.ones((3, 3, 2))),
            r"b must have the shape \[2, 3, any\], but has \[3, 3, 2\]",
        ),
        (
            lambda o: o.convolution([jt.ones((2, 1, 2, 3, 3)), KERNEL], "convolved", [3, 3, 2, 2, 1, 1, 0, 0, 1, 1]),
            r"the second input must have the shape \[2, any, any, any, any\]",
        ),
        (lambda o: o.channels(jt.ones(3), 1, -1, 1), "channels: sizes of arrays are not negative, but one is -1"),
        (lambda o: o.channels(jt.ones(3), 2**30, 2**30, 1), "channels: an array of the shape .* is too large"),
        (lambda o: o.rectified([]), "rectified: there must be an input"),
        (lambda o: o.rectified([FLOATS, jt.ones(5)]), r"as many numbers as the first, of the shape \[2, 3\]"),
        (lambda o: o.combination([FLOATS, jt.ones((3, 2))], 1.0, 1.0), r"have \[2, 3\] and \[3, 2\]"),
        (lambda o: o.scaled(FLOATS, FLOATS), r"scaled: s must have the shape \[1\]"),
        (lambda o: o.inner_product([FLOATS]), "inner_product: inputs must be pairs, but are 1"),
        (
            lambda o: o.cross_entropy([FLOATS, INTEGERS], "losses", 2),
            r"rows of classes must have the shape \[2, 2\]",
        ),
        (
            lambda o: o.cross_entropy([FLOATS, jt.ones(2)], "losses", 3),
            "labels must be int32 or int64, but are float32",
        ),
        (
            lambda o: o.cross_entropy([FLOATS, INTEGERS], "loss", 3),
            'cross_entropy: there is no part "loss"; there are losses, mean, softmax, by_scores,',
        ),
        (lambda o: o.cross_entropy([FLOATS, INTEGERS], 0, 3), "Wrong inputs arguments"),
        (lambda o: o.cross_entropy([FLOATS], "losses", 3), 'part "losses" has 2 inputs, not 1'),
        (lambda o: o.cross_entropy([], "softmax", 3), 'part "softmax" has 1 or 2 inputs, not 0'),
        (
            lambda o: o.convolution([IMAGES, KERNEL], "by_y", [3, 3, 2, 2, 1, 1, 0, 0, 1, 1]),
            'convolution: there is no part "by_y"; there are convolved, by_x, by_k',
        ),
        (
            lambda o: o.convolution([IMAGES], "convolved", [3, 3, 2, 2, 1, 1, 0, 0, 1, 1]),
            'part "convolved" has two inputs or three, not 1',
        ),
        (
            lambda o: o.convolution([IMAGES, KERNEL], "convolved", [3, 3, 2, 2, 0, 1, 0, 0, 1, 1]),
            "convolution: a stride must be at least 1, not 0",
        ),
        (lambda o: o.convolution([IMAGES, KERNEL], "convolved", [3, 3, 2, 2]), "there must be 10 sizes, but are 4"),
        (lambda o: o.convolution([IMAGES, KERNEL], "convolved", [3, 3, 2, 2, 1, 1, 0, 0, 3, 1]), "does not fit into 3"),
    ],
)
def test_what_an_operation_cannot_take_is_refused_in_words(call, message):
    with pytest.raises(RuntimeError, match=message):
        call(cpu_ops.load())
