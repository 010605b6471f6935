"""Graphs built inside ``fast_gradients`` have the same values and derivatives, and quick kernels."""

from graph_checks import close, kernels_of, leaves
from jboat import autodiff, functional
from jboat.backend import cpu_ops
from jboat.backend.replacements import dispatch, exponentials
from jboat.fast_gradients import fast_gradients
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


def second(w):
    jt.sync_all(True)
    return autodiff.hvp(loss(w, jt.array(X.astype("float32"))), w, leaves(V))


def test_first_and_second_derivatives():
    w = leaves(W)
    with fast_gradients():
        close(autodiff.grad(loss(w, jt.array(X.astype("float32"))), w), gradient(W))
        close(second(w), hessian_vector_product())


def test_a_batch_without_gradients_changes_no_derivative():
    w, x = leaves(W), jt.array(X.astype("float32")).stop_grad()
    with fast_gradients():
        close(autodiff.hvp(loss(w, x), w, leaves(V)), hessian_vector_product())


@pytest.mark.parametrize("layer", ["product", "convolution"])
def test_of_a_batch_without_gradients_no_factor_is_kept(layer):
    def kept(stopped):
        jt.gc()
        x = jt.ones((500, 2, 18, 18) if layer == "convolution" else (500, 8))
        x = x.stop_grad() if stopped else x
        w = jt.ones((64, 2, 3, 3) if layer == "convolution" else (8, 9000))
        jt.sync([x, w])
        before = jt.get_mem_info().total_cpu_used
        with fast_gradients():
            out = nn.relu(nn.conv2d(x, w) if layer == "convolution" else x @ w)
            moved = w - autodiff.grad((out * out).sum(), [w])[0]
        del out
        moved.sync()
        jt.gc()
        return jt.get_mem_info().total_cpu_used - before

    one_array = 4 * (500 * 64 * 16 * 16 if layer == "convolution" else 500 * 9000)
    assert kept(stopped=False) - kept(stopped=True) >= one_array


def test_no_condition_is_a_bool_and_no_product_is_a_plain_loop():
    def slow(names):
        loops = [n for n in names if "broadcast_to" in n and "DIM=3" in n and n.count("REDUCE") > n.count("relay")]
        return any("Tc:bool" in n for n in names), bool(loops)

    assert slow(kernels_of(lambda: second(leaves(W)))) == (True, True)
    with fast_gradients():
        assert slow(kernels_of(lambda: second(leaves(W)))) == (False, False)


def test_no_kernel_makes_the_number_that_a_gradient_starts_from():
    a, b = leaves([RNG.normal(size=(3, 4)), RNG.normal(size=(3, 4))])
    jt.sync([a, b])

    def gradient(take):
        with fast_gradients():
            return take(functional.dot([a], [a]), [a])

    def starts(take):
        return [name for name in kernels_of(lambda: gradient(take)) if "array" in name]

    assert starts(jt.grad)
    assert not starts(autodiff.grad)
    assert not starts(lambda value, at: autodiff.vjp([value], at, [b.sum()]))


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


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_leaves_out_rows_whose_label_is_none(reduction):
    rng = np.random.default_rng(3)
    target = np.array([0, 4, -1, 2, 5, 1, 3, 255] * 30)
    z, v = (3 * rng.normal(size=(240, 5)) for _ in range(2))
    inside = (target >= 0) & (target < 5)
    share = {"mean": 1 / inside.sum(), "sum": 1.0, "none": 1.0}[reduction]

    def value_and_gradient(z):
        p = np.exp(z - z.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        losses = np.where(inside, -np.log(p[range(240), np.where(inside, target, 0)]), 0.0)
        by_z = inside[:, None] * (p - (target[:, None] == range(5)))
        if reduction == "none":  # of the sum of squares
            return (losses**2).sum(), 2 * losses[:, None] * by_z
        return losses.sum() * share, by_z * share

    def in_jittor(z):
        loss = nn.cross_entropy_loss(z, jt.array(target.astype("int32")), reduction=reduction)
        return (loss * loss).sum() if reduction == "none" else loss

    sides = [value_and_gradient(z + sign * 1e-6 * v)[1] for sign in (1, -1)]
    wanted = value_and_gradient(z)
    with fast_gradients():
        at, along = leaves([z]), leaves([v])
        np.testing.assert_allclose(in_jittor(*at).item(), wanted[0], rtol=1e-5)
        close(autodiff.grad(in_jittor(*at), at), wanted[1:])
        close(autodiff.hvp(in_jittor(*at), at, along), [(sides[0] - sides[1]) / 2e-6])


def test_third_derivatives_of_softmax_and_cross_entropy():
    rng = np.random.default_rng(4)
    z, v = leaves([rng.normal(size=(6, 3))]), leaves([rng.normal(size=(6, 3))])
    target = jt.array(np.array([0, 2, 1, 1, 0, 2], "int32"))

    def third():
        weights = z[0].softmax(dim=1)[:, 0]
        loss = (nn.cross_entropy_loss(z[0], target, reduction="none") * weights).mean()
        return autodiff.vjp(autodiff.vjp(autodiff.grad(loss, z), z, v), z, v)

    wanted = [g.numpy() for g in third()]
    with fast_gradients():
        close(third(), wanted)


def test_cross_entropy_with_weights_and_softmax_of_other_axes_are_jittors():
    rng = np.random.default_rng(6)
    z, images = (jt.array(rng.normal(size=s).astype("float32")) for s in [(6, 3), (2, 3, 4, 4)])
    target, pixels = (jt.array(rng.integers(0, 3, s).astype("int32")) for s in [6, (2, 4, 4)])

    def values():
        weight = jt.array(np.array([1.0, 2.0, 3.0], "float32"))
        return [
            nn.cross_entropy_loss(z, target, weight),
            nn.cross_entropy_loss(z, target, ignore_index=1),
            nn.cross_entropy_loss(images, pixels),
            nn.softmax(z, dim=0),
            nn.softmax(images, dim=-1),
            nn.softmax(z),
            z.log_softmax(dim=1),
        ]

    wanted = [v.numpy() for v in values()]
    with fast_gradients():
        for got, a in zip(values(), wanted, strict=True):
            np.testing.assert_allclose(got.numpy(), a, rtol=1e-5, atol=1e-7)


def test_without_the_operations_jittors_own_are_used(monkeypatch):
    monkeypatch.setattr(cpu_ops, "load", lambda: None)
    w, before = leaves(W), nn.matmul_transpose
    with fast_gradients():
        assert nn.matmul_transpose is before
        close(autodiff.grad(loss(w, jt.array(X.astype("float32"))), w), gradient(W))


def test_operations_that_do_not_compile_are_left_out_with_a_warning(monkeypatch, caplog):
    def refuse(*args, **kwargs):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(jt.compiler, "compile_custom_ops", refuse)
    assert cpu_ops.load.__wrapped__() is None
    assert "no compiler" in caplog.text
    monkeypatch.setattr(jt.compile_extern, "mkl_ops", None)
    caplog.clear()
    assert cpu_ops.load.__wrapped__() is None
    assert caplog.text == ""


def test_derivatives_belong_to_the_values_at_the_time_of_the_product():
    parameters, w = [jt.zeros(a.shape) for a in W], leaves(W)
    with fast_gradients(), functional.substituted(parameters, w):
        value = loss(parameters, jt.array(X.astype("float32")))
    close(autodiff.hvp(value, w, leaves(V)), hessian_vector_product())


class Saving(jt.Function):
    """x^2 with a gradient that no variable leads to."""

    def execute(self, x):
        self.saved = x.detach()
        return x * x

    def grad(self, g):
        return (2.0 * self.saved * g).detach()


def test_what_has_no_derivative_has_none():
    w = leaves(W)

    def value():
        return Saving.apply(jt.array(X.astype("float32")) @ w[0]).sum()

    (wanted,) = autodiff.hvp(value(), w[:1], leaves(V[:1]))
    with fast_gradients():
        (got,) = autodiff.hvp(value(), w[:1], leaves(V[:1]))
    np.testing.assert_allclose(got.numpy(), wanted.numpy(), rtol=1e-5, atol=1e-6)


def test_everything_comes_back():
    def operations():
        names = ("ternary", "ternary_out_hint", "where", "matmul", "exp", "sigmoid", "tanh", "erf", "max")
        of_layers = ("matmul", "matmul_transpose", "softmax", "cross_entropy_loss", "relu", "conv2d", "conv", "linear")
        of_vars = ("matmul", "__matmul__", "exp", "sigmoid", "tanh", "erf", "softmax", "max", "broadcast")
        executed = ((nn.ReLU, ("execute",)), (nn.Conv, ("execute",)), (nn.Linear, ("execute",)))
        owners = ((jt, names), (nn, of_layers), (jt.Var, of_vars), *executed)
        return {(owner.__name__, name): dispatch.current(owner, name) for owner, names in owners for name in names}

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


def test_nothing_is_kept():
    w = leaves(W)
    with fast_gradients():
        jt.sync(second(w))
        before = jt.liveness_info()["lived_vars"]
        for _ in range(5):
            jt.sync(second(w))
        assert jt.liveness_info()["lived_vars"] == before


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("of", [jt.tanh, jt.Var.tanh])
@pytest.mark.parametrize("functions", [exponentials.on_cpu, exponentials.on_cuda])
def test_tanh_has_finite_derivatives_everywhere(functions, of, dtype):
    at = np.array([0, 1e-5, -0.3, 2, -5, 12, 20, 30, -40, 50, 80, 88, 89, 100, -1e4, np.inf])
    weights = np.linspace(1, 2, len(at))
    with dispatch.replaced(functions()):
        x, w = (jt.array(a, dtype=dtype) for a in (at, weights))
        value, got = of(x), []
        for _ in range(3):
            got.append(value.numpy())
            (value,) = autodiff.grad((w * value).sum(), [x])
    y, w = np.tanh(at), weights
    slope = 1 - y * y
    exact = [y, w * slope, -2 * w**2 * y * slope]
    for mine, wanted in zip(got, exact, strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=0, atol=1e-6 if dtype == "float32" else 1e-14)
    assert np.isnan(of(jt.array([np.nan])).numpy()).all()
