"""Graphs built inside ``fast_gradients`` have the same values and derivatives, and quick kernels."""

from jboat import autodiff, cpu_ops, functional
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


def calls_of(call):
    """How often each kernel runs, by name."""
    jt.sync_all(True)
    with jt.profile_scope(warmup=0, rerun=0) as report:
        jt.sync(call())
    return {row[0]: int(row[2]) for row in report[1:]}


def kernels_of(call):
    return list(calls_of(call))


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


class Cubes:
    """The sum of the cubes of a linear layer's outputs, and its derivatives, in numpy, float64."""

    def __init__(self, x, weight, bias):
        self.at, self.out = (x, weight, bias), x @ weight.T + bias

    def pulled_back(self, by_out):
        x, weight, _ = self.at
        return [by_out @ weight, by_out.T @ x, by_out.sum(0)]

    def gradient(self):
        return self.pulled_back(3 * self.out**2)

    def gradient_along(self, dx, dw, db):
        (x, weight, _), by_out = self.at, 3 * self.out**2
        direct = [by_out @ dw, by_out.T @ dx, 0.0]
        found = self.pulled_back(6 * self.out * (dx @ weight.T + x @ dw.T + db))
        return [a + b for a, b in zip(direct, found, strict=True)]

    def gradient_along_twice(self, *along, eps=1e-5):
        moved = [Cubes(*(a + sign * eps * v for a, v in zip(self.at, along, strict=True))) for sign in (1, -1)]
        sides = [cubes.gradient_along(*along) for cubes in moved]
        return [(a - b) / (2 * eps) for a, b in zip(*sides, strict=True)]


def layer_of(n, m, k):
    rng = np.random.default_rng(11)
    return ([rng.normal(size=s) for s in [(n, m), (k, m), k]] for _ in range(2))


# few outputs, more, and so many rows for each of them that oneDNN computes a layer
LAYERS = [(40, 30, 7), (60, 20, 30), (660, 9, 30)]


@pytest.mark.parametrize(("n", "m", "k"), LAYERS)
def test_linear_layers_and_their_derivatives(n, m, k):
    arrays, directions = layer_of(n, m, k)
    cubes, at, along = Cubes(*arrays), leaves(arrays), leaves(directions)

    def gradient():
        return autodiff.grad((nn.linear(*at) ** 3).sum(), at)

    def gradient_along():
        return autodiff.vjp(gradient(), at, along)

    with fast_gradients():
        close([nn.linear(*at)], [cubes.out])
        close(gradient(), cubes.gradient())
        close(gradient_along(), cubes.gradient_along(*directions))
        close(autodiff.vjp(gradient_along(), at, along), cubes.gradient_along_twice(*directions))


def test_derivatives_of_a_layers_gradients_by_weight_and_bias_alone():
    arrays, (_, dw, db) = layer_of(*LAYERS[0])
    cubes, at, along = Cubes(*arrays), leaves(arrays), leaves([dw, db])

    def gradient():
        return autodiff.grad((nn.linear(*at) ** 3).sum(), at[1:])

    with fast_gradients():
        close(gradient()[1:], cubes.gradient()[2:])
        close(autodiff.vjp(gradient()[:1], at, along[:1]), cubes.gradient_along(0.0 * arrays[0], dw, 0.0 * db))
        close(autodiff.vjp(gradient()[1:], at, along[1:]), cubes.gradient_along(0.0 * arrays[0], 0.0 * dw, db))


def test_a_layer_whose_output_has_no_derivative_leaves_those_of_others_alone():
    arrays, _ = layer_of(*LAYERS[0])
    at = leaves(arrays)

    def squares():
        return sum((a * a).sum() for a in at)

    def flat(values):
        return sum(v.floor().sum() for v in values)

    with fast_gradients():
        of_output = [squares() + flat([nn.linear(*at)]), flat([nn.linear(*at)]) + squares()]
        gradients = autodiff.grad((nn.linear(*at) ** 3).sum(), at[1:])
        for value in [*of_output, squares() + flat(gradients), flat(gradients) + squares()]:
            close(autodiff.grad(value, at), [2 * a for a in arrays])


def test_biases_of_layers_need_no_kernels():
    layer = nn.Linear(3, 10)
    x, along = (jt.array(RNG.normal(size=s).astype("float32")) for s in [(40, 3), (10, 3)])

    def along_gradient():
        gradient = autodiff.grad((layer(x) ** 2).sum(), [layer.weight, layer.bias])
        return autodiff.vjp(gradient, [layer.weight, layer.bias], [along, along[:, 0]])

    def of_biases(names):
        sums, rows = "OP:add«DIM=2«REDUCE=1", "broadcast_to«Tx:float32«DIM=2«BCAST=1"
        return [name for name in names if sums in name or rows in name]

    assert of_biases(kernels_of(along_gradient))
    with fast_gradients():
        assert not of_biases(kernels_of(along_gradient))


def test_layers_of_other_arguments_are_jittors():
    rows, bias = jt.array(X.astype("float32")), jt.array(RNG.normal(size=3).astype("float32"))
    weight, batch = jt.array(RNG.normal(size=(3, 4)).astype("float32")), rows.unsqueeze(0)
    layers = [nn.Linear(4, 3), nn.Linear(4, 3, bias=False)]
    scalar = jt.array(np.array([0.5], "float32"))

    def values():
        plain = [nn.linear(rows, weight), nn.linear(batch, weight, bias), nn.linear(rows, weight, scalar)]
        return [*plain, nn.linear(rows, weight, 0.5), *(layer(x) for layer in layers for x in (rows, batch))]

    wanted = [v.numpy() for v in values()]
    with fast_gradients():
        for got, a in zip(values(), wanted, strict=True):
            np.testing.assert_allclose(got.numpy(), a, rtol=1e-5, atol=1e-6)
        with pytest.raises((AssertionError, RuntimeError)):
            jt.sync([layers[0](weight[:, :3])])


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


def rectified_twice(x, first, second):
    """A ReLU with two readers, one of another shape, below and above another ReLU."""
    hidden = nn.relu(nn.relu(x) @ first)
    return ((hidden.reshape(-1) ** 2).reshape(hidden.shape) @ second).sum() + ((hidden @ second) ** 3).sum()


def rectified_gradient(x, first, second):
    """The same in numpy, float64."""
    below = np.maximum(x, 0) @ first
    hidden = np.maximum(below, 0)
    out = hidden @ second
    by_hidden = 2 * hidden * second.sum(1) + 3 * out**2 @ second.T
    by_below = by_hidden * (below > 0)
    by_second = (hidden**2).sum(0)[:, None] + hidden.T @ (3 * out**2)
    return [by_below @ first.T * (x > 0), np.maximum(x, 0).T @ by_below, by_second]


def test_derivatives_of_relu_add_up_what_reaches_it():
    rng = np.random.default_rng(13)
    arrays, directions = ([rng.normal(size=s) for s in [(30, 4), (4, 5), (5, 3)]] for _ in range(2))

    def numpys_along(arrays, eps=1e-6):
        moved = [[a + sign * eps * v for a, v in zip(arrays, directions, strict=True)] for sign in (1, -1)]
        sides = [rectified_gradient(*m) for m in moved]
        return [(a - b) / (2 * eps) for a, b in zip(*sides, strict=True)]

    with fast_gradients():
        at, along = leaves(arrays), leaves(directions)

        def gradient_along():
            return autodiff.vjp(autodiff.grad(rectified_twice(*at), at), at, along)

        close(autodiff.grad(rectified_twice(*at), at), rectified_gradient(*arrays))
        close(gradient_along(), numpys_along(arrays))
        third = autodiff.vjp(gradient_along(), at, along)
    wanted = autodiff.vjp(autodiff.vjp(autodiff.grad(rectified_twice(*at), at), at, along), at, along)
    close(third, [w.numpy() for w in wanted])


@pytest.mark.parametrize("layer", ["linear", "convolution"])
def test_what_layers_add_to_second_derivatives_of_relu_needs_no_kernel(layer):
    shapes = {"linear": [(9, 4), (5, 4), (3, 5)], "convolution": [(2, 3, 6, 6), (4, 3, 3, 3), (5, 4, 3, 3)]}[layer]
    x, first, second = leaves([RNG.normal(size=s) for s in shapes])
    biases = leaves([RNG.normal(size=s[0]) for s in shapes[1:]])
    at = [x, first, second, *biases]
    along = leaves([RNG.normal(size=a.shape) for a in at])

    def second_derivative():
        apply = nn.linear if layer == "linear" else nn.conv2d
        hidden = nn.relu(apply(nn.relu(x), first, biases[0]))
        return autodiff.hvp((nn.relu(apply(hidden, second, biases[1])) ** 3).sum(), at, along)

    def sums(calls):
        alone = "«opkey0:binary«Tx:float32«Ty:float32«Tz:float32«OP:add«JIT"
        return sum(count for name, count in calls.items() if name.startswith(alone))

    wanted = [w.numpy() for w in second_derivative()]
    of_weights = 2  # each is met on the way forth and on the way back
    with fast_gradients():
        assert sums(calls_of(second_derivative)) == of_weights
        close(second_derivative(), wanted)


def test_relu_of_other_types_is_jittors():
    values = np.array([-1.5, 0.0, 2.5], "float32")
    with fast_gradients():
        for x in (values, jt.array(values), jt.array(values.astype("int32"))):
            np.testing.assert_array_equal(nn.relu(x).numpy(), np.maximum(np.asarray(x), 0))
            np.testing.assert_array_equal(nn.ReLU()(x).numpy(), np.maximum(np.asarray(x), 0))


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
        of_layers = ("matmul", "matmul_transpose", "softmax", "cross_entropy_loss", "relu", "conv2d", "conv", "linear")
        of_vars = ("matmul", "__matmul__", "exp", "sigmoid", "tanh", "erf", "softmax", "max", "broadcast")
        executed = ((nn.ReLU, ("execute",)), (nn.Conv, ("execute",)), (nn.Linear, ("execute",)))
        owners = ((jt, names), (nn, of_layers), (jt.Var, of_vars), *executed)
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
