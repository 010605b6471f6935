"""The Nystrom approximation of a symmetric matrix by some of its columns, inverted after a shift."""

from __future__ import annotations

from collections.abc import Sequence

from jboat import functional
from jboat.linear_solvers import MatrixVectorProduct, Solution, flatness
import jittor as jt
import numpy as np


def nystrom_solve(
    product: MatrixVectorProduct,
    b: Sequence[jt.Var],
    *,
    columns: Sequence[int],
    shift: float = 0.0,
    inverses: Sequence[jt.Var] | None = None,
) -> Solution:
    """``q = (C W^+ C' + E)^-1 b``, C being columns of A, W their rows of the same numbers, E ``shift I`` or diagonal.

    By the identity of Woodbury that is ``E^-1 (b - C z)`` with ``(W + C' E^-1 C) z = C' E^-1 b``, a system as large as
    the number of columns, which is solved in float64 on the host. Its inner products are taken in float64 on the
    device, since ``C'C`` squares the condition number; nothing as long as a column leaves the device.

    Args:
        product: ``v -> A v`` with A symmetric; called once a column, and once more for the residual.
        b: the right-hand side.
        columns: which columns, by the position in all entries of ``b`` one after another; none twice.
        shift: positive; not read where ``inverses`` are given.
        inverses: the diagonal of ``E^-1``, one Var per Var of ``b``; entries of q where it is 0 are 0.

    Returns:
        The approximation, its residual being that of ``E^-1 (A + E) q = E^-1 b``. NaN in ``b`` or in a product stays
        in it.
    """
    right, flat_inverses = _flat(b), None if inverses is None else functional.cut([_flat(inverses)])[0]

    def unshifted(v: jt.Var) -> jt.Var:
        return functional.times(1.0 / shift, [v])[0] if flat_inverses is None else v * flat_inverses

    taken: list[jt.Var] = []
    inner, cross = np.zeros((len(columns), len(columns))), np.zeros((len(columns), len(columns)))
    with_right = np.zeros(len(columns))
    rows = jt.array(np.asarray(columns, dtype=np.int32)).sync()
    for i, column in enumerate(columns):
        (image,) = functional.cut([_flat(product(_unit(b, column)))])
        taken.append(image)
        (weighted,) = functional.cut([unshifted(image)])
        numbers = [_exact_dot(weighted, other) for other in (right, *taken)]
        entries = image[rows]
        jt.sync([*numbers, entries])
        with_right[i], inner[i, : i + 1] = numbers[0].item(), [n.item() for n in numbers[1:]]
        cross[i] = entries.numpy()
    inner = np.tril(inner) + np.tril(inner, -1).T
    cross = 0.5 * (cross + cross.T)
    weights, lowest = _solved(cross + inner, with_right), _lowest(cross)
    rest = right
    for weight, image in zip(weights, taken, strict=True):
        (rest,) = functional.cut(functional.axpy(float(-weight), [image], [rest]))
    solution, scaled_right = functional.cut([unshifted(rest), unshifted(right)])
    vector = functional.cut(_like(solution, b))
    image = unshifted(_flat(product(vector)))
    (residual,) = functional.cut([scaled_right - image - solution])
    size, left = functional.norm([scaled_right]), functional.norm([residual])
    relative = left / size if size > 0.0 else left
    breakdown = "the columns do not tell enough of the Hessian" if relative > 1.0 else ""
    negative = lowest if lowest < -flatness(b) * float(np.abs(cross).max(initial=0.0)) else 0.0
    return Solution(vector, len(columns) + 1, relative, breakdown, negative)


def _solved(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """``matrix^+ right``; what is less than float32's rounding in the columns counts as zero."""
    if not np.isfinite(matrix).all() or not np.isfinite(right).all():
        return np.full_like(right, np.nan)
    values, vectors = np.linalg.eigh(matrix)
    sizes = np.abs(values)
    kept = sizes > 1e-14 * sizes.max(initial=0.0)
    return (vectors[:, kept] / values[kept]) @ (vectors[:, kept].T @ right)


def _lowest(matrix: np.ndarray) -> float:
    """The lowest eigenvalue, which no principal submatrix of a matrix without negative curvature has below 0."""
    return float(np.linalg.eigvalsh(matrix)[0]) if np.isfinite(matrix).all() else 0.0


def _exact_dot(a: jt.Var, b: jt.Var) -> jt.Var:
    return (a.float64() * b.float64()).sum()


def _flat(vector: Sequence[jt.Var]) -> jt.Var:
    """All entries one after another."""
    parts = [v.reshape(-1) for v in vector]
    return parts[0].detach() if len(parts) == 1 else jt.concat(parts).detach()


def _like(flat: jt.Var, vector: Sequence[jt.Var]) -> list[jt.Var]:
    """A flat vector in the shapes and dtypes of another."""
    parts, begin = [], 0
    for v in vector:
        part = flat[begin : begin + v.numel()].reshape(v.shape)
        parts.append(part)
        begin += v.numel()
    return functional.of_dtypes(parts, vector)


def _unit(vector: Sequence[jt.Var], entry: int) -> list[jt.Var]:
    """The unit vector of an entry, every Var made by the same operations wherever the entry is."""
    parts, begin = [], 0
    for v in vector:
        place = jt.array(np.asarray([entry - begin], dtype=np.int32))
        parts.append((jt.arange(v.numel()) == place).cast(str(v.dtype)).reshape(v.shape))
        begin += v.numel()
    return functional.cut(parts)
