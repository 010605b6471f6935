"""Graphs built inside ``fast_gradients`` have the same values and derivatives, and quick kernels."""

from jboat import autodiff, functional
from jboat.fast_gradients import constant, fast_gradients
import jittor as jt
from jittor import nn
import numpy as np
import pytest

RNG = np.random.default_rng(5)
X = RNG.normal(size=(7, 4))
W = [RNG.normal(size=(4, 5)), RNG.normal(size=(3, 5))]
V = [RNG.normal(size=w.shape) for w in W]
SLOPE = 0.2


def loss(w, x):
    hidden = jt.where(x @ w[0] > 0, x @ w[0], SLOPE * (x @ w[0])).tanh()
    hidden = nn.relu(hidden) * hidden
    out = nn.linear(hidden, w[1])
    return (out * out * out).sum()


def gradient(w):
    """The same in numpy, float64."""
    before = X @ w[0]
    slope = np.where(before > 0, 1.0, SLOPE)
    tanh = np.tanh(slope * before)
    hidden = np.maximum(tanh, 0.0) * tanh
    out = hidden @ w[1].T
    by_out = 3 * out**2
    by_tanh = (by_out @ w[1]) * 2 * np.maximum(tanh, 0.0)
    return [X.T @ (by_tanh * (1 - tanh**2) * slope), by_out.T @ hidden]


def hessian_vector_product(eps=1e-6):
    sides = [gradient([w + sign * eps * v for w, v in zip(W, V, strict=True)]) for sign in (1, -1)]
    return [(a - b) / (2 * eps) for a, b in zip(*sides, strict=True)]


def leaves(arrays):
    return [jt.array(a.astype("float32")) for a in arrays]


def second(w):
    jt.sync_all(True)
    return autodiff.hvp(loss(w, jt.array(X.astype("float32"))), w, leaves(V))


def close(got, wanted):
    for g, a in zip(got, wanted, strict=True):
        np.testing.assert_allclose(g.numpy(), a, rtol=2e-4, atol=2e-4 * np.abs(a).max())


def test_first_and_second_derivatives():
    w = leaves(W)
    with fast_gradients():
        close(autodiff.grad(loss(w, jt.array(X.astype("float32"))), w), gradient(W))
        close(second(w), hessian_vector_product())


def kernels_of(call):
    jt.sync_all(True)
    with jt.profile_scope(warmup=0, rerun=0) as report:
        jt.sync(call())
    return [row[0] for row in report[1:]]


def test_no_condition_is_a_bool_and_no_product_is_a_plain_loop():
    def slow(names):
        products = [n for n in names if "broadcast_to" in n and "DIM=3" in n]
        assert products
        return any("Tc:bool" in n for n in names), any(n.count("REDUCE") > n.count("relay") for n in products)

    assert slow(kernels_of(lambda: second(leaves(W)))) == (True, True)
    with fast_gradients():
        assert slow(kernels_of(lambda: second(leaves(W)))) == (False, False)


def entropy(w, x, target):
    """Cross entropy against labels, weighted by a sigmoid, and against a softmax, of a linear model."""
    out = x @ w[0]
    losses = nn.cross_entropy_loss(out, target, reduction="none")
    return (losses * w[1][0].sigmoid()).mean() + (nn.log_softmax(out, dim=1) * out.softmax(dim=1)).sum()


def entropy_gradient(w, x, target):
    """The same in numpy, float64."""
    out = x @ w[0]
    p = np.exp(out - out.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    weights = 1 / (1 + np.exp(-w[1][0]))
    losses = -np.log(p[range(len(x)), target])
    by_out = weights[:, None] * (p - np.eye(p.shape[1])[target]) / len(x)
    by_out += p * (np.log(p) - (p * np.log(p)).sum(1, keepdims=True))
    return [x.T @ by_out, (losses * weights * (1 - weights) / len(x))[None]]


def test_derivatives_of_softmax_and_cross_entropy():
    target = np.array([0, 1, 2, 3, 4, 0, 2])
    w, v = ([RNG.normal(size=(4, 5)), RNG.normal(size=(1, 7))] for _ in range(2))
    moved = ([a + sign * 1e-6 * b for a, b in zip(w, v, strict=True)] for sign in (1, -1))
    sides = [entropy_gradient(m, X, target) for m in moved]
    wanted = [(a - b) / 2e-6 for a, b in zip(*sides, strict=True)]

    def at_leaves():
        at = leaves(w)
        return entropy(at, jt.array(X.astype("float32")), jt.array(target.astype("int32"))), at

    def unwanted(names):
        sums_of_exponentials = [n for n in names if "OP:exp" in n and "reduce" in n]
        return len(sums_of_exponentials), sum("Ty:float32«Tz:bool«OP:equal" in n for n in names)

    assert all(unwanted(kernels_of(lambda: autodiff.grad(*at_leaves()))))
    with fast_gradients():
        assert unwanted(kernels_of(lambda: autodiff.grad(*at_leaves()))) == (0, 0)
        close(autodiff.grad(*at_leaves()), entropy_gradient(w, X, target))
        close(autodiff.hvp(*at_leaves(), leaves(v)), wanted)


def test_derivatives_belong_to_the_values_at_the_time_of_the_product():
    parameters, w = [jt.zeros(a.shape) for a in W], leaves(W)
    with fast_gradients(), functional.substituted(parameters, w):
        value = loss(parameters, jt.array(X.astype("float32")))
    close(autodiff.hvp(value, w, leaves(V)), hessian_vector_product())


def test_a_constant_is_still_differentiated_by_and_is_one_only_inside_the_block():
    data, w = jt.array(X.astype("float32")), leaves(W)
    taped = []
    with pytest.MonkeyPatch.context() as patch, fast_gradients():
        patch.setattr(jt, "tape_together", lambda *args: taped.append(args))
        with constant([data, "not a Var"]):
            product = data @ w[0]
            assert taped == []
        data @ w[0]
        assert len(taped) == 1
    by_data, by_w = autodiff.hvp((product * product * product).sum(), [data, w[0]], [jt.ones(X.shape), *leaves(V[:1])])
    out, change = X @ W[0], X @ V[0] + np.ones(X.shape) @ W[0]
    close([by_data], [6 * out * change @ W[0].T + 3 * out**2 @ V[0].T])
    close([by_w], [X.T @ (6 * out * change) + np.ones(X.shape).T @ (3 * out**2)])


def test_what_has_no_derivative_has_none():
    w, pool = leaves(W), nn.Pool(2, 2, op="maximum")  # whose second derivative Jittor leaves out

    def value():
        return (pool((jt.array(X.astype("float32")) @ w[0])[None, None]) ** 2).sum()

    (wanted,) = autodiff.hvp(value(), w[:1], leaves(V[:1]))
    with fast_gradients():
        (got,) = autodiff.hvp(value(), w[:1], leaves(V[:1]))
    np.testing.assert_allclose(got.numpy(), wanted.numpy(), rtol=1e-5, atol=1e-6)


def test_everything_comes_back():
    def operations():
        names = ("ternary", "ternary_out_hint", "where", "matmul", "exp", "sigmoid", "tanh", "erf", "max")
        of_layers = ("matmul", "matmul_transpose", "softmax", "cross_entropy_loss")
        of_vars = ("matmul", "__matmul__", "exp", "sigmoid", "tanh", "erf", "softmax", "max")
        owners = ((jt, names), (nn, of_layers), (jt.Var, of_vars))
        return {(owner.__name__, name): getattr(owner, name) for owner, names in owners for name in names}

    def fail():
        with fast_gradients(), fast_gradients():
            assert {name for name, now in operations().items() if now is before[name]} == unchanged
            raise KeyError

    before, unchanged = operations(), {("jittor", "max"), ("jittor_core.Var", "max")}
    with pytest.raises(KeyError):
        fail()
    assert operations() == before


def test_the_largest_entry_is_a_constant_in_softmax_alone():
    x = leaves(W)[0]
    with fast_gradients():
        with pytest.raises(RuntimeError, match="Wrong inputs"):
            nn.softmax(x, dim="no axis")
        (by_x,) = autodiff.grad(x.max(1).sum(), [x])
    np.testing.assert_array_equal(by_x.numpy(), (W[0] == W[0].max(1, keepdims=True)).astype(float))


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


def test_nothing_is_kept():
    w = leaves(W)
    with fast_gradients():
        jt.sync(second(w))
        before = jt.liveness_info()["lived_vars"]
        for _ in range(5):
            jt.sync(second(w))
        assert jt.liveness_info()["lived_vars"] == before
