"""Outer steps of methods without a chain of lower steps on the quadratic, in numpy float64."""

import numpy as np
from problems import DIM_X
from scipy.optimize import minimize

LOWER_ITERS = 5


class Exact:
    """f and F of the quadratic with their gradients."""

    def __init__(self, problem):
        self.p = problem

    def f(self, x, y):
        return 0.5 * y @ self.p.A @ y - y @ (self.p.B @ x + self.p.c)

    def f_y(self, x, y):
        return self.p.A @ y - self.p.B @ x - self.p.c

    def f_x(self, x, y):
        return -self.p.B.T @ y

    def best(self, x):
        """The lower-level solution; of several the one with the least upper objective, as the field assumes."""
        free = self.p.t - 0.5 * self.p.D @ x
        return free - np.linalg.pinv(self.p.A, rcond=1e-10) @ (self.p.A @ free - self.p.B @ x - self.p.c)

    def reduced(self, x):
        return self.p.upper(self.best(x), x)

    def optimum(self):
        """The bilevel solution x, from the affine gradient of the reduced objective."""
        by_x = np.stack([self.best(e) - self.best(np.zeros(DIM_X)) for e in np.eye(DIM_X)], 1)

        def gradient(x):
            y = self.best(x)
            return self.p.upper_by_x(y, x) + by_x.T @ self.p.upper_by_y(y, x)

        offset = gradient(np.zeros(DIM_X))
        return np.linalg.solve(np.stack([gradient(e) - offset for e in np.eye(DIM_X)], 1), -offset)

    def surrogate_optimum(self, value):
        """The minimiser of a smooth function of x and y."""
        start = np.concatenate([self.optimum(), self.best(self.optimum())])
        found = minimize(lambda v: value(v[:DIM_X], v[DIM_X:]), start, method="BFGS", options={"gtol": 1e-9})
        return found.x[:DIM_X], found.x[DIM_X:]


def one_step_vfo(e, x, y):
    y_hat = y
    for _ in range(LOWER_ITERS):
        y_hat = y_hat - 0.2 * e.f_y(x, y_hat)
    q = e.f(x, y) - e.f(x, y_hat)
    grad_q = np.concatenate([e.f_x(x, y) - e.f_x(x, y_hat), e.f_y(x, y)])
    grad_upper = np.concatenate([e.p.upper_by_x(y, x), e.p.upper_by_y(y, x)])
    weight = max(0.0, (0.7 * q - grad_upper @ grad_q) / (grad_q @ grad_q + 1e-8))
    move = grad_upper + weight * grad_q
    return move[:DIM_X], y - 0.1 * move[DIM_X:]


def one_step_meso(e, x, y):
    theta = y - 0.2 * e.f_y(x, y)
    y_new = y - 0.1 * (e.p.upper_by_y(y, x) / 3.0 + e.f_y(x, y) - 0.5 * (y - theta))
    return e.p.upper_by_x(y_new, x) / 3.0 + e.f_x(x, y_new) - e.f_x(x, theta), y_new


def one_step_pgdo(e, x, y):
    y_hat = y
    for _ in range(LOWER_ITERS):
        y_hat = y_hat - 0.2 * e.f_y(x, y_hat)
    by_x = e.p.upper_by_x(y, x) + 2.0 * (e.f_x(x, y) - e.f_x(x, y_hat))
    return by_x, y - 0.1 * (e.p.upper_by_y(y, x) + 2.0 * e.f_y(x, y))


def one_step_pgdo_gradient(e, x, y):
    g = e.f_y(x, y)
    by_x = e.p.upper_by_x(y, x) - 2.0 * 2.0 * e.p.B.T @ g
    return by_x, y - 0.1 * (e.p.upper_by_y(y, x) + 2.0 * 2.0 * e.p.A @ g)


def one_step_alto(e, x, y):
    y_new = y - 0.1 * e.f_y(x, y)
    return e.p.upper_by_x(y_new, x), y_new


def one_step_gaffo(e, x, y, low=-np.inf, high=np.inf):
    theta = np.clip(y - 0.2 * e.f_y(x, y), low, high)
    by_x = e.p.upper_by_x(y, x) / 3.0 + e.f_x(x, y) - e.f_x(x, theta)
    return by_x, np.clip(y - 0.1 * (e.p.upper_by_y(y, x) / 3.0 + e.f_y(x, y) - 0.5 * (y - theta)), low, high)


def dual_multiplier(problem, steps, gm_op, na_op, strategy, *, lr_y, lr_x):
    """x, y and the multiplier after some steps of DM with tau 0.3, p 2, mu0 0.6 and eta0 0.8."""
    x, y, v = problem.x0, problem.y0, np.zeros(len(problem.y0))
    for k in range(steps):
        mu = 0.6 * (k + 1) ** -0.5 if "GDA" in gm_op else 0.0
        if "GDA" in gm_op:
            a, b = {"s1": (2, 7), "s2": (1, 5), "s3": (0, 3)}[strategy]
            eta, rate = (k + 1) ** -0.15 * mu**a * lr_y, (k + 1) ** -0.45 * mu**b * lr_y
        else:
            eta, rate = 0.8 * (k + 1) ** -0.15 * lr_y, lr_x * lr_y * (k + 1) ** -0.3
        H, G, _ = problem.phi(mu)
        residual = H @ v - problem.upper_by_y(y, x)
        if "CG" in na_op:
            eta = residual @ residual / (residual @ H @ residual)
        dx = problem.upper_by_x(y, x) + G.T @ v
        y_new = y - lr_y * problem.phi_by_y(y, x, mu)
        x, y, v = x - rate * dx, y_new, v - eta * residual
    return x, y, v


def soba(problem, steps, *, lr_y, lr_v, lr_x):
    """x and y after some steps of SOBA from v = 0."""
    x, y, v = problem.x0, problem.y0, np.zeros(len(problem.y0))
    for _ in range(steps):
        d_y, d_v = problem.phi_by_y(y, x, 0.0), problem.A @ v - problem.upper_by_y(y, x)
        d_x = problem.upper_by_x(y, x) + problem.B.T @ v
        x, y, v = x - lr_x * d_x, y - lr_y * d_y, v - lr_v * d_v
    return x, y


def f2sa(problem, steps, *, lr_y, lr_v, lr_x):
    """x and y after some steps of F2SA from z = y and lambda = 10."""
    x, y = problem.x0, problem.y0
    z = y
    for k in range(steps):
        weight = 10.0 * (k + 1) ** (1.0 / 7.0)
        d_x = problem.upper_by_x(z, x) + weight * (problem.phi_by_x(z, x, 0.0) - problem.phi_by_x(y, x, 0.0))
        d_z = problem.phi_by_y(z, x, 0.0) + problem.upper_by_y(z, x) / weight
        x, y, z = x - lr_x * d_x, y - lr_y * problem.phi_by_y(y, x, 0.0), z - lr_v * d_z
    return x, y
