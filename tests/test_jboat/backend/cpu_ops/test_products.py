"""Products of matrices of all forms, and their derivatives."""

from graph_checks import close, leaves
from jboat import autodiff
from jboat.backend import cpu_ops
from jboat.fast_gradients import fast_gradients
import jittor as jt
from jittor import nn
import numpy as np
import pytest

RNG = np.random.default_rng(5)


# n, m, k: few columns, so many that they are read in blocks, too many; few rows; sums shorter and longer than a vector
SIZES = [(3, 4, 5), (40, 27, 3), (90, 50, 14), (200, 64, 23), (7, 33, 90), (130, 40, 30), (420, 5, 26), (700, 1500, 3)]


@pytest.mark.parametrize("trans_a", [False, True])
@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize(("n", "m", "k"), SIZES)
def test_products_of_all_forms_and_their_derivatives(n, m, k, trans_a, trans_b):
    rng = np.random.default_rng(n)
    a, da = (rng.normal(size=(m, n) if trans_a else (n, m)) for _ in range(2))
    b, db = (rng.normal(size=(k, m) if trans_b else (m, k)) for _ in range(2))

    def turned(v, flag):
        return v.T if flag else v

    def product(p, q):
        return turned(p, trans_a) @ turned(q, trans_b)

    weight, out, change = rng.normal(size=(n, k)), product(a, b), product(da, b) + product(a, db)
    by_out, by_out_changed = 2 * weight * out, 2 * weight * change  # of sum(weight * out ** 2), and along (da, db)
    wanted = [
        turned(by_out_changed @ turned(b, trans_b).T + by_out @ turned(db, trans_b).T, trans_a),
        turned(turned(a, trans_a).T @ by_out_changed + turned(da, trans_a).T @ by_out, trans_b),
    ]
    at, along = leaves([a, b]), leaves([da, db])
    got = cpu_ops.load().matrix_product(*at, trans_a, trans_b)
    close([got], [out])
    close(autodiff.hvp((jt.array(weight.astype("float32")) * got * got).sum(), at, along), wanted)


@pytest.mark.parametrize(("n", "m", "k"), [(0, 4, 3), (3, 4, 0), (0, 4, 300), (40, 0, 30), (600, 0, 30)])
def test_products_and_layers_of_nothing(n, m, k):
    x, weight, bias = jt.zeros((n, m)), jt.zeros((k, m)), jt.ones(k)
    with fast_gradients():
        np.testing.assert_array_equal((x @ weight.transpose()).numpy(), np.zeros((n, k)))
        np.testing.assert_array_equal(nn.linear(x, weight, bias).numpy(), np.ones((n, k)))
        by_weight, by_bias = autodiff.grad(nn.linear(x, weight, bias).sum(), [weight, bias])
        np.testing.assert_array_equal(by_weight.numpy(), np.zeros((k, m)))
        np.testing.assert_array_equal(by_bias.numpy(), np.full(k, n))


def test_other_products_are_jittors():
    batch, matrix, vector = (jt.array(RNG.normal(size=s).astype("float32")) for s in [(2, 3, 4), (4, 5), (4,)])

    def products():
        return [batch @ matrix, batch @ vector, nn.bmm(batch, batch.transpose(0, 2, 1)), jt.where(vector > 0)[0]]

    wanted = [p.numpy() for p in products()]
    with fast_gradients():
        for got, a in zip(products(), wanted, strict=True):
            np.testing.assert_array_equal(got.numpy(), a)
        with pytest.raises(AssertionError, match="dimension not match"):
            matrix @ matrix
