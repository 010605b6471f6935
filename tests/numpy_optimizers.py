"""Jittor's optimizers in numpy: ``step(p, g, state, n, **hyperparameters)``, n from 1, gives p and state."""

import jittor as jt
import numpy as np


def np_sgd(p, g, s, n, lr=0.1, momentum=0.0, weight_decay=0.0, dampening=0.0, nesterov=False):
    g = g + weight_decay * p
    v = momentum * s.get("v", 0.0) + (1 - dampening) * g
    return p - lr * (g + momentum * v if nesterov else v), {"v": v}


def np_rmsprop(p, g, s, n, lr=0.1, eps=1e-8, alpha=0.99):
    v = alpha * s.get("v", 0.0) + (1 - alpha) * g * g
    return p - lr * g / (np.sqrt(v) + eps), {"v": v}


def np_adam(p, g, s, n, lr=0.1, eps=1e-8, betas=(0.9, 0.999), weight_decay=0.0, decoupled=False):
    b0, b1 = betas
    if not decoupled:
        g = g + weight_decay * p
    m = b0 * s.get("m", 0.0) + (1 - b0) * g
    v = b1 * s.get("v", 0.0) + (1 - b1) * g * g
    if decoupled:
        move = lr / (1 - b0**n) * m / (np.sqrt(v / (1 - b1**n)) + eps)
        return p * (1 - lr * weight_decay) - move, {"m": m, "v": v}
    return p - lr * np.sqrt(1 - b1**n) / (1 - b0**n) * m / (np.sqrt(v) + eps), {"m": m, "v": v}


def np_adamw(p, g, s, n, **kw):
    return np_adam(p, g, s, n, decoupled=True, **kw)


def np_adan(p, g, s, n, lr=0.1, betas=(0.98, 0.92, 0.99), eps=1e-8, weight_decay=0.0, max_grad_norm=0.0):
    b1, b2, b3 = betas
    if max_grad_norm > 0:
        g = g * min(1.0, max_grad_norm / (np.sqrt((g * g).sum()) + 1e-6))
    diff = g - s.get("prev", 0.0)
    m = b1 * s.get("m", 0.0) + (1 - b1) * g
    d = b2 * s.get("d", 0.0) + (1 - b2) * diff
    u = g + b2 * diff
    v = b3 * s.get("v", 0.0) + (1 - b3) * u * u
    r = np.sqrt(1 - b3**n)
    p = p - lr * r * (m / (1 - b1**n) + b2 * d / (1 - b2**n)) / (np.sqrt(v) + eps * r)
    return p / (1 + lr * weight_decay), {"m": m, "d": d, "v": v, "prev": g}


CASES = {
    "sgd": (jt.optim.SGD, np_sgd, {"lr": 0.1}),
    "momentum": (jt.optim.SGD, np_sgd, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    "nesterov": (jt.optim.SGD, np_sgd, {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "decay": (jt.optim.SGD, np_sgd, {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.1}),
    "rmsprop": (jt.optim.RMSprop, np_rmsprop, {"lr": 0.05}),
    "adam": (jt.optim.Adam, np_adam, {"lr": 0.1, "weight_decay": 0.1}),
    "adamw": (jt.optim.AdamW, np_adamw, {"lr": 0.1, "weight_decay": 0.1}),
    "adan": (jt.optim.Adan, np_adan, {"lr": 0.1, "weight_decay": 0.1}),
    "adan clipped": (jt.optim.Adan, np_adan, {"lr": 0.1, "max_grad_norm": 0.5}),
}
