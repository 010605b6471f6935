"""RAD through the lower optimizers against central finite differences of F(x, y_K(x)) in float64."""

from chains import solve
import jittor as jt
import numpy as np
from problems import Classifier
import pytest

K, LR = 6, 0.3


def sgd(momentum=0.0, nesterov=False, weight_decay=0.0, dampening=0.0):
    def update(params, grads, state, step):
        state = state or [np.zeros_like(p) for p in params]
        grads = [g + weight_decay * p for p, g in zip(params, grads, strict=True)]
        state = [momentum * v + (1 - dampening) * g for v, g in zip(state, grads, strict=True)]
        moves = [g + momentum * v for g, v in zip(grads, state, strict=True)] if nesterov else state
        return [p - LR * m for p, m in zip(params, moves, strict=True)], state

    return update


def adam(params, grads, state, step, lr=0.05, b0=0.9, b1=0.999, eps=1e-8):
    state = state or [(np.zeros_like(p), np.zeros_like(p)) for p in params]
    state = [(b0 * m + (1 - b0) * g, b1 * v + (1 - b1) * g * g) for (m, v), g in zip(state, grads, strict=True)]
    size = lr * np.sqrt(1 - b1**step) / (1 - b0**step)
    return [p - size * m / (np.sqrt(v) + eps) for p, (m, v) in zip(params, state, strict=True)], state


OPTIMIZERS = {
    "sgd": (sgd(), lambda p: jt.optim.SGD(p, LR)),
    "momentum": (sgd(0.9), lambda p: jt.optim.SGD(p, LR, momentum=0.9)),
    "nesterov": (sgd(0.9, nesterov=True), lambda p: jt.optim.SGD(p, LR, momentum=0.9, nesterov=True)),
    "weight decay": (sgd(0.5, weight_decay=0.1), lambda p: jt.optim.SGD(p, LR, momentum=0.5, weight_decay=0.1)),
    "adam": (adam, lambda p: jt.optim.Adam(p, 0.05)),
}


@pytest.mark.parametrize("hidden", [0, 5], ids=["logistic", "mlp"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rad_equals_finite_differences(name, hidden):
    problem = Classifier(hidden=hidden)
    reference, make = OPTIMIZERS[name]
    exact = problem.unrolled_gradient(K, reference)
    result = solve(problem, ("NGD",), ("RAD",), lower_iters=K, lr=LR, batches=problem.batches(), optimizer=make)
    got = result["hyper_gradient"][0].numpy()
    assert result["upper_loss"] == pytest.approx(
        problem.unrolled(problem.weights.astype(float), K, reference), rel=1e-5
    )
    assert np.linalg.norm(got - exact) / np.linalg.norm(exact) < 5e-6


@pytest.mark.parametrize("hidden", [0, 5], ids=["logistic", "mlp"])
def test_cg_and_ns_against_the_dense_solve(hidden):
    problem = Classifier(hidden=hidden)
    batches = problem.batches()
    ridge = 0.5

    class Ridged:
        models, F = problem.models, staticmethod(problem.F)

        @staticmethod
        def f(batch, ul_model, ll_model):
            return problem.f(batch, ul_model, ll_model) + 0.5 * ridge * sum(
                (p * p).sum() for p in ll_model.parameters()
            )

    sections = {"CG": {"k": 60, "tolerance": 1e-7}, "NS": {"k": 4, "tolerance": 0.0}}
    run = {"lower_iters": K, "lr": LR, "sections": sections, "batches": batches}
    cg, ns = (solve(Ridged, ("NGD",), (name,), **run) for name in ("CG", "NS"))
    y = [p.numpy().astype(float) for p in cg["trajectory"].parameters()]
    H, cross = dense_derivatives(problem, y, ridge)
    Fy = flat(problem._loss_and_gradient(y, problem.val, np.ones(problem.SAMPLES))[1])
    exact = -cross.T @ np.linalg.solve(H, Fy)
    got = cg["hyper_gradient"][0].numpy()
    assert np.linalg.norm(got - exact) / np.linalg.norm(exact) < 1e-4
    q = sum(LR * np.linalg.matrix_power(np.eye(len(H)) - LR * H, j) @ Fy for j in range(5))
    got = ns["hyper_gradient"][0].numpy()
    assert np.linalg.norm(got + cross.T @ q) / np.linalg.norm(cross.T @ q) < 1e-4


RADIUS = 0.02


@pytest.mark.parametrize("hidden", [0, 5], ids=["logistic", "mlp"])
@pytest.mark.parametrize("regularised", [False, True])
def test_fd_and_iga_against_their_formulas(hidden, regularised):
    """FD's two sides differ by a hundredth of a loss, whose rounding of 6e-8 is then 6e-6 of the difference."""
    problem = Classifier(hidden=hidden)
    ridge = 0.3 if regularised else 0.0

    class Ridged:
        models, F = problem.models, staticmethod(problem.F)

        @staticmethod
        def f(batch, ul_model, ll_model):
            penalty = 0.5 * ridge * sum((p * p).sum() for p in ll_model.parameters())
            return problem.f(batch, ul_model, ll_model) + penalty * (ul_model() * 0.0 + 1.0).mean()

    run = {"lower_iters": K, "lr": LR, "sections": {"FD": {"r": RADIUS}}, "batches": problem.batches()}
    fd, iga = (solve(Ridged, ("NGD",), (name,), **run) for name in ("FD", "IGA"))
    before, y = ([p.numpy().astype(float) for p in fd["trajectory"].parameters(k)] for k in (K - 1, K))
    F_y = problem._loss_and_gradient(y, problem.val, np.ones(problem.SAMPLES))[1]
    step = RADIUS / np.linalg.norm(flat(F_y))
    sides = [by_x(problem, [p + sign * step * v for p, v in zip(before, F_y, strict=True)]) for sign in (1, -1)]
    assert relative_error(fd, -LR * (sides[0] - sides[1]) / (2 * step)) < 2e-5
    weights = 1 / (1 + np.exp(-problem.weights.astype(float)))
    f_y = flat(problem._loss_and_gradient(y, problem.train, weights)[1]) + ridge * flat(y)
    assert relative_error(iga, -(flat(F_y) @ f_y) / (f_y @ f_y) * by_x(problem, y)) < 2e-6


def relative_error(result, exact):
    return np.linalg.norm(result["hyper_gradient"][0].numpy() - exact) / np.linalg.norm(exact)


def by_x(problem, params):
    """The gradient by the raw weights x of the mean of sigmoid(x_i) times the loss of sample i."""
    logits, _ = problem._forward(params, problem.train["data"].astype(float))
    shifted = logits - logits.max(1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(problem.SAMPLES), problem.train["target"]]
    weights = 1 / (1 + np.exp(-problem.weights.astype(float)))
    return losses * weights * (1 - weights) / problem.SAMPLES


def flat(arrays):
    return np.concatenate([a.ravel() for a in arrays])


def dense_derivatives(problem, y, ridge, eps=1e-5):
    """d2f/dy2 and d2f/dydx by central differences of the float64 gradient."""

    def gradient(vector, raw_weights):
        parts = np.split(vector, np.cumsum([p.size for p in y])[:-1])
        params = [part.reshape(p.shape) for part, p in zip(parts, y, strict=True)]
        weights = 1 / (1 + np.exp(-raw_weights))
        return flat(problem._loss_and_gradient(params, problem.train, weights)[1]) + ridge * vector

    vector, x = flat(y), problem.weights.astype(float)
    columns = [(gradient(vector + e, x) - gradient(vector - e, x)) / (2 * eps) for e in eps * np.eye(len(vector))]
    cross = [(gradient(vector, x + e) - gradient(vector, x - e)) / (2 * eps) for e in eps * np.eye(len(x))]
    return np.stack(columns, 1), np.stack(cross, 1)
