"""Symmetric systems of six unknowns whose spectra are known."""

import jittor as jt
import numpy as np

BASIS = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
B = np.random.default_rng(2).normal(size=6)
SPECTRA = {
    "definite": [0.5, 1.0, 1.5, 2.0, 3.0, 4.0],
    "indefinite": [-2.0, -0.5, 0.7, 1.0, 2.0, 3.0],
    "negative": [-4.0, -3.0, -2.0, -1.5, -1.0, -0.5],
}


def matrix_of(spectrum):
    return BASIS @ np.diag(spectrum) @ BASIS.T


class Product:
    """``v -> A v``, the vector held in two Vars; counts its calls."""

    def __init__(self, matrix):
        self.matrix, self.calls = jt.array(matrix.astype("float32")), 0

    def __call__(self, v):
        self.calls += 1
        image = (self.matrix * jt.concat(v).reshape(1, -1)).sum(1)
        return [image[:2], image[2:]]


def split(vector):
    return [jt.array(vector[:2].astype("float32")), jt.array(vector[2:].astype("float32"))]


def joined(solution):
    return np.concatenate([v.numpy() for v in solution.vector]).astype(np.float64)


def residual_of(matrix, solution, b=B):
    return np.linalg.norm(matrix @ joined(solution) - b) / np.linalg.norm(b)
