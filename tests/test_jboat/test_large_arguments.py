"""elu, logsumexp and log_sigmoid where exponentials overflow or vanish, beside numpy's in float64."""

from jboat import autodiff
from jboat.fast_gradients import fast_gradients
import jittor as jt
from jittor import nn
import numpy as np
import pytest

AT = np.array([0, 1e-5, -0.3, 2, -5, 12, 30, -31, 50, -80, 88, 89, -100, 1000, -1000], "float32")
X = AT.astype(np.float64)
SMALL = np.exp(np.minimum(X, 0.0))
SIGMOID = np.where(X > 0, 1.0, SMALL) / (1.0 + np.exp(-np.abs(X)))


def derivatives(of, x):
    """The value, and the sums' first and second derivatives."""
    found = []
    with fast_gradients():
        value = of(x)
        for _ in range(3):
            found.append(value.numpy())
            (value,) = autodiff.grad(value.sum(), [x])
    return found


@pytest.mark.parametrize(
    ("of", "exact"),
    [
        (nn.elu, [np.where(X > 0, X, SMALL - 1), np.where(X > 0, 1, SMALL), np.where(X > 0, 0, SMALL)]),
        (
            nn.ELU(0.5),
            [np.where(X > 0, X, SMALL / 2 - 0.5), np.where(X > 0, 1, SMALL / 2), np.where(X > 0, 0, SMALL / 2)],
        ),
        (nn.log_sigmoid, [-np.logaddexp(0, -X), 1 - SIGMOID, -SIGMOID * (1 - SIGMOID)]),
        (jt.Var.log_sigmoid, [-np.logaddexp(0, -X), 1 - SIGMOID, -SIGMOID * (1 - SIGMOID)]),
    ],
)
def test_by_entry(of, exact):
    for mine, wanted in zip(derivatives(of, jt.array(AT)), exact, strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("of", [nn.logsumexp, jt.Var.logsumexp])
def test_of_rows(of):
    rows = np.stack([X, X / 2, 1 - X], 1)
    value, first, second = derivatives(lambda x: of(x, 1), jt.array(rows, dtype="float32"))
    largest = rows.max(1, keepdims=True)
    shares = np.exp(rows - largest)
    np.testing.assert_allclose(value, np.log(shares.sum(1)) + largest[:, 0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(first, shares / shares.sum(1, keepdims=True), rtol=0, atol=1e-5)
    assert not np.abs(second).max() > 1e-5  # of a sum of shares, which is 1


def test_shapes_of_logsumexp():
    x = jt.array(np.arange(24.0, dtype="float32").reshape(2, 3, 4) * 10)
    with fast_gradients():
        for dim, keep in [(0, False), (-1, True), ((0, 2), False), ([1, 2], True)]:
            axes = (dim,) if isinstance(dim, int) else tuple(dim)
            wanted = np.logaddexp.reduce(x.numpy().astype(float), axes[0], keepdims=True)
            for axis in axes[1:]:
                wanted = np.logaddexp.reduce(wanted, axis, keepdims=True)
            mine = nn.logsumexp(x, dim, keepdims=keep).numpy()
            np.testing.assert_allclose(mine, wanted if keep else wanted.squeeze(axes), rtol=1e-6)


def test_rows_without_a_finite_entry():
    x = jt.array(np.array([[-np.inf, -np.inf], [np.inf, 0.0]], "float32"))
    with fast_gradients():
        assert nn.logsumexp(x, 1).numpy()[1] == np.inf
        assert nn.logsumexp(x, 1).numpy()[0] < -1e37
        np.testing.assert_allclose(nn.logsumexp(jt.array([[1, 2], [3, 300]]), 1).numpy(), [2.3132617, 300.0], rtol=1e-6)
