"""Bilevel problems whose hypergradients are known without jboat: closed forms in numpy float64."""

from __future__ import annotations

import jittor as jt
from jittor import nn
import numpy as np

DIM_Y, DIM_X = 8, 5


class Point(jt.Module):
    """A model that is one vector."""

    def __init__(self, value):
        self.value = jt.array(np.asarray(value, dtype=np.float32))

    def execute(self):
        return self.value


class Quadratic:
    """f = y'Ay/2 - y'(Bx + c), F = |y - t|^2/2 + y'Dx/2 + rho|x|^2/2, and every operator's exact answer.

    Lower steps are gradient steps with momentum ``beta`` on phi_k = a_k F + (1 - a_k) f + lam/2 |y - y_0|^2, all affine
    in (y, x): phi_k has gradient H_k y - G_k x - h_k by y.
    """

    def __init__(self, seed=0, *, same_dims=False, coupling=1.0, rank=DIM_Y):
        """With ``rank`` less than the dimension of y, f is convex in y with a flat of minima for every x."""
        rng = np.random.default_rng(seed)
        self.dim_x = DIM_Y if same_dims else DIM_X
        m = rng.normal(size=(DIM_Y, DIM_Y))
        self.A = m @ m.T / DIM_Y + 0.5 * np.eye(DIM_Y)
        self.B = coupling * rng.normal(size=(DIM_Y, self.dim_x))
        self.c = rng.normal(size=DIM_Y)
        self.t = rng.normal(size=DIM_Y)
        self.D = 0.3 * rng.normal(size=(DIM_Y, self.dim_x))
        if rank < DIM_Y:
            basis = np.linalg.qr(m)[0][:, :rank]
            self.A = basis @ np.diag(np.linspace(0.5, 1.5, rank)) @ basis.T
            self.B, self.c = basis @ basis.T @ self.B, basis @ basis.T @ self.c
        self.rho = 0.1
        self.x0 = rng.normal(size=self.dim_x)
        self.y0 = self.x0.copy() if same_dims else rng.normal(size=DIM_Y)
        self._vars = {k: jt.array(getattr(self, k).astype("float32")) for k in "ABctD"}
        jt.sync(list(self._vars.values()))

    def models(self):
        return Point(self.x0), Point(self.y0)

    def f(self, batch, ul_model, ll_model):
        v, y, x = self._vars, ll_model(), ul_model()
        shift = (v["B"] * x.reshape(1, -1)).sum(1) + v["c"]
        return 0.5 * (y.reshape(-1, 1) * v["A"] * y.reshape(1, -1)).sum() - (y * shift).sum()

    def F(self, batch, ul_model, ll_model):
        v, y, x = self._vars, ll_model(), ul_model()
        gap = y - v["t"]
        cross = (y.reshape(-1, 1) * v["D"] * x.reshape(1, -1)).sum()
        return 0.5 * (gap * gap).sum() + 0.5 * cross + 0.5 * self.rho * (x * x).sum()

    def upper(self, y, x):
        return 0.5 * np.sum((y - self.t) ** 2) + 0.5 * y @ self.D @ x + 0.5 * self.rho * x @ x

    def upper_by_y(self, y, x):
        return y - self.t + 0.5 * self.D @ x

    def upper_by_x(self, y, x):
        return 0.5 * self.D.T @ y + self.rho * x

    def phi(self, alpha, lam=0.0):
        """The affine gradient of phi: (H, G, h) with grad_y phi = H y - G x - h, less lam y_0."""
        H = alpha * np.eye(DIM_Y) + (1 - alpha) * self.A + lam * np.eye(DIM_Y)
        G = -0.5 * alpha * self.D + (1 - alpha) * self.B
        h = alpha * self.t + (1 - alpha) * self.c
        return H, G, h

    def phi_by_x(self, y, x, alpha):
        return alpha * self.upper_by_x(y, x) - (1 - alpha) * self.B.T @ y

    def phi_by_y(self, y, x, alpha):
        H, G, h = self.phi(alpha)
        return H @ y - G @ x - h

    def iterates(self, x, y0, K, lr, alphas, *, beta=0.0, lam=0.0):
        ys, velocity = [y0], np.zeros(DIM_Y)
        for k in range(K):
            H, G, h = self.phi(alphas[k], lam)
            gradient = H @ ys[-1] - G @ x - h - lam * y0
            velocity = beta * velocity + gradient
            ys.append(ys[-1] - lr * velocity)
        return ys

    def reference(self, na, *, K, lr, alphas=None, M=0, k_star=None, k=10, r=0.01, lam=1.0, rho=0.01, di=False):
        """The hypergradient of chain ``na`` in float64, the upper loss, PTT's index, and dF/dy_0."""
        alphas = np.zeros(K) if alphas is None else alphas
        x, y0 = self.x0, self.y0
        solves = bool({"CG", "NS", "NYS"} & {*na})
        implicit_maml = "IAD" in na and solves
        lam = lam if implicit_maml else 0.0
        if "IAD" in na:
            y0 = x
        ys = self.iterates(x, y0, K, lr, alphas, lam=lam)
        first = M if "RGT" in na else 0
        if "PTT" not in na:
            k_star = K
        elif k_star is None:
            k_star = first + 1 + int(np.argmax([self.upper(y, x) for y in ys[first + 1 :]]))
        y, alpha = ys[k_star], alphas[k_star - 1]
        Fx, Fy = self.upper_by_x(y, x), self.upper_by_y(y, x)
        H, G, _ = self.phi(alpha, lam)

        adjoint, through = Fy, np.zeros(self.dim_x)
        by_start = None
        for step in reversed(range(k_star)):
            H_k, G_k, _ = self.phi(alphas[step])
            if step >= first:
                through = through + lr * G_k.T @ adjoint
            adjoint = adjoint - lr * H_k @ adjoint
            if step == first:
                by_start = adjoint
        by_y0 = adjoint

        if "CG" in na:
            q = np.linalg.solve(H, Fy)
        elif "NS" in na:
            q = sum(lr * np.linalg.matrix_power(np.eye(DIM_Y) - lr * H, j) @ Fy for j in range(k + 1))
        elif "NYS" in na:  # from all columns
            q = np.linalg.solve(H + rho * np.eye(DIM_Y), Fy)
        if implicit_maml:
            answer = lam * q
        elif "FOA" in na:
            answer = Fy
        elif "IAD" in na:
            answer = by_start
        elif "RAD" in na:
            answer = Fx + through
        elif solves:
            answer = Fx + G.T @ q
        elif "IGA" in na:
            p = self.phi_by_y(y, x, alpha)
            answer = Fx - (Fy @ p) / (p @ p) * self.phi_by_x(y, x, alpha)
        else:  # FD: phi is quadratic, so the central difference is exact
            answer = Fx + lr * G.T @ Fy
        return answer, self.upper(y, x), k_star, by_y0


class NoisyQuadratic(Quadratic):
    """The quadratic as a mean over batches: of A, B and c in f, of D and t in F.

    ``A``, ``B``, ``c``, ``D`` and ``t`` are the means, so that what the quadratic knows of itself holds for all batches
    together. The coupling is weak, so that plain steps converge.
    """

    def __init__(self, seed=0, *, lower=4, upper=3, spread=0.3):
        super().__init__(seed, coupling=0.3)
        self.rho = 1.0
        rng = np.random.default_rng(seed + 1)

        def around(mean, count, noise):
            off = np.stack([noise() for _ in range(count)])
            return (mean + spread * (off - off.mean(0))).astype(np.float32)

        def symmetric():
            m = rng.normal(size=(DIM_Y, DIM_Y))
            return (m + m.T) / DIM_Y

        def matrix():
            return rng.normal(size=(DIM_Y, DIM_X)) / DIM_Y

        def vector():
            return rng.normal(size=DIM_Y)

        self.of_lower = {
            "A": around(self.A, lower, symmetric),
            "B": around(self.B, lower, matrix),
            "c": around(self.c, lower, vector),
        }
        self.of_upper = {"D": around(self.D, upper, matrix), "t": around(self.t, upper, vector)}
        for name, arrays in {**self.of_lower, **self.of_upper}.items():
            setattr(self, name, arrays.astype(np.float64).mean(0))
        self.x0, self.y0 = (v.astype(np.float32).astype(np.float64) for v in (self.x0, self.y0))

    def loaders(self):
        """Lists of lower and of upper batches."""
        return tuple(
            [dict(zip(level, arrays, strict=True)) for arrays in zip(*level.values(), strict=True)]
            for level in (self.of_lower, self.of_upper)
        )

    def full(self):
        """One batch of each level that stands for all."""
        return tuple({n: np.float32(getattr(self, n)) for n in level} for level in (self.of_lower, self.of_upper))

    def f(self, batch, ul_model, ll_model):
        y, x = ll_model(), ul_model()
        shift = (batch["B"] * x.reshape(1, -1)).sum(1) + batch["c"]
        return 0.5 * (y.reshape(-1, 1) * batch["A"] * y.reshape(1, -1)).sum() - (y * shift).sum()

    def F(self, batch, ul_model, ll_model):
        y, x = ll_model(), ul_model()
        gap = y - batch["t"]
        cross = (y.reshape(-1, 1) * batch["D"] * x.reshape(1, -1)).sum()
        return 0.5 * (gap * gap).sum() + 0.5 * cross + 0.5 * self.rho * (x * x).sum()

    def terms(self, x, y, v, i=None, j=None, *, decay=0.0):
        """grad_y f, (d2 f/dy2) v, (d2 f/dxdy) v of lower batch i, grad_y F, grad_x F of upper batch j; None for all."""
        A, B, c = (getattr(self, n) if i is None else self.of_lower[n][i].astype(float) for n in "ABc")
        D, t = (getattr(self, n) if j is None else self.of_upper[n][j].astype(float) for n in "Dt")
        A = A + decay * np.eye(DIM_Y)
        return A @ y - B @ x - c, A @ v, -B.T @ v, y - t + 0.5 * D @ x, 0.5 * D.T @ y + self.rho * x

    def directions(self, *args, **kwargs):
        """Along which y, v and x move by the terms that these arguments give."""
        by_y, hessian_v, mixed_v, upper_by_y, upper_by_x = self.terms(*args, **kwargs)
        return by_y, hessian_v - upper_by_y, upper_by_x - mixed_v

    def hypergradient(self, x, *, decay=0.0):
        """The exact one, of all batches."""
        H = self.A + decay * np.eye(DIM_Y)
        y = np.linalg.solve(H, self.B @ x + self.c)
        return self.upper_by_x(y, x) + self.B.T @ np.linalg.solve(H, self.upper_by_y(y, x))


class Classifier:
    """Weighted logistic regression, or a two-layer network, on few samples; x holds one weight per training sample."""

    SAMPLES, FEATURES, CLASSES = 24, 6, 3

    def __init__(self, *, hidden=0, seed=0):
        rng = np.random.default_rng(seed)
        n, d, c = self.SAMPLES, self.FEATURES, self.CLASSES
        self.train = {"data": rng.normal(size=(n, d)).astype("float32"), "target": rng.integers(0, c, n)}
        self.val = {"data": rng.normal(size=(n, d)).astype("float32"), "target": rng.integers(0, c, n)}
        self.weights = rng.normal(size=n).astype("float32")
        if hidden:
            self.shapes = [(hidden, d), (hidden,), (c, hidden), (c,)]
        else:
            self.shapes = [(c, d), (c,)]
        self.start = [0.5 * rng.normal(size=s) for s in self.shapes]
        self.hidden = hidden

    def models(self):
        if self.hidden:
            ll_model = nn.Sequential(
                nn.Linear(self.FEATURES, self.hidden), nn.Tanh(), nn.Linear(self.hidden, self.CLASSES)
            )
        else:
            ll_model = nn.Linear(self.FEATURES, self.CLASSES)
        for p, value in zip(ll_model.parameters(), self.start, strict=True):
            p.assign(jt.array(value.astype("float32")))
        return Point(self.weights), ll_model

    def batches(self):
        return tuple(
            {"data": jt.array(b["data"]), "target": jt.array(b["target"].astype("int32"))}
            for b in (self.train, self.val)
        )

    @staticmethod
    def f(batch, ul_model, ll_model):
        losses = nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"], reduction="none")
        return (losses * ul_model().sigmoid()).mean()

    @staticmethod
    def F(batch, ul_model, ll_model):
        return nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"])

    def _forward(self, params, data):
        """Logits and what the backward pass needs, in float64."""
        if not self.hidden:
            W, b = params
            return data @ W.T + b, None
        W1, b1, W2, b2 = params
        h = np.tanh(data @ W1.T + b1)
        return h @ W2.T + b2, h

    def _loss_and_gradient(self, params, batch, weights):
        """The weighted mean cross entropy and its gradient, both in float64."""
        data, target = batch["data"].astype(np.float64), batch["target"]
        logits, h = self._forward(params, data)
        shifted = logits - logits.max(1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        n = len(target)
        loss = -(weights * log_p[np.arange(n), target]).mean()
        delta = np.exp(log_p)
        delta[np.arange(n), target] -= 1
        delta *= (weights / n)[:, None]
        if not self.hidden:
            return loss, [delta.T @ data, delta.sum(0)]
        back = (delta @ params[2]) * (1 - h**2)
        return loss, [back.T @ data, back.sum(0), delta.T @ h, delta.sum(0)]

    def unrolled(self, raw_weights, K, update):
        """F(x, y_K(x)) in float64; ``update(params, grads, state, step)`` is the lower optimizer."""
        params, state = [p.astype(np.float64) for p in self.start], None
        weights = 1 / (1 + np.exp(-raw_weights))
        for step in range(1, K + 1):
            _, grads = self._loss_and_gradient(params, self.train, weights)
            params, state = update(params, grads, state, step)
        return self._loss_and_gradient(params, self.val, np.ones(self.SAMPLES))[0]

    def unrolled_gradient(self, K, update, eps=1e-5):
        """Central finite differences of :meth:`unrolled`, in float64."""
        x = self.weights.astype(np.float64)
        columns = []
        for i in range(len(x)):
            e = np.zeros_like(x)
            e[i] = eps
            columns.append((self.unrolled(x + e, K, update) - self.unrolled(x - e, K, update)) / (2 * eps))
        return np.array(columns)
