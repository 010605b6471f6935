"""The types of the operations in C++, which Jittor makes into functions when it compiles them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import jittor as jt

ConvolutionPart = Literal["convolved", "by_x", "by_k"]
ScorePart = Literal[
    "losses", "mean", "softmax", "by_scores", "by_losses", "along", "spread", "scaled_rows", "row_products"
]


class Operations(Protocol):
    """What :func:`jboat.backend.cpu_ops.load` returns.

    All arrays are float32, and labels int32 or int64. Every operation checks the types, dimensions and sizes of what it
    is given, and raises a RuntimeError that names what it cannot take. The headers beside this file say more.
    """

    def __hash__(self) -> int:
        """Of the module that Jittor makes of them."""

    @staticmethod
    def matrix_product(a: jt.Var, b: jt.Var, trans_a: bool = False, trans_b: bool = False) -> jt.Var:
        """The product of two matrices, each of them transposed if asked to: ``[n, m]`` and ``[m, k]`` to ``[n, k]``.

        Of ``[t, n, m]`` and ``[t, m, k]`` it is that of each pair of matrices.
        """

    @staticmethod
    def linear(x: jt.Var, weight: jt.Var, bias: jt.Var) -> jt.Var:
        """``x[n, m] weight[k, m]' + bias[k]``, of shape ``[n, k]``."""

    @staticmethod
    def linear_gradients(dout: jt.Var, x: jt.Var) -> tuple[jt.Var, jt.Var]:
        """The derivatives of ``linear`` by weight and bias along ``dout[n, k]``, of shapes ``[k, m]`` and ``[k]``."""

    @staticmethod
    def convolution(inputs: Sequence[jt.Var], part: ConvolutionPart, sizes: Sequence[int]) -> jt.Var:
        """A convolution of ``x[n, i, h, w]`` with ``k[o, i, a, b]``, or a derivative of it.

        Args:
            inputs: x and k, and a bias ``[o]`` or none; for the derivatives see convolution_op.h. All may have a first
                axis more, as many convolutions.
            part: the convolution itself, or the derivative by x or k.
            sizes: h, w, a, b, then strides, padding and dilation, two numbers each.
        """

    @staticmethod
    def channels(x: jt.Var, n: int, h: int, w: int) -> jt.Var:
        """``x[c]`` in every place of ``[n, c, h, w]``; or, of an x of that shape, the sums over all axes but c.

        Of ``x[t, c]`` or ``x[t, n, c, h, w]`` the same for each t.
        """

    @staticmethod
    def cross_entropy(inputs: Sequence[jt.Var], part: ScorePart, k: int) -> jt.Var:
        """Softmax, cross entropy or their derivatives, of rows of scores.

        Args:
            inputs: ``z[n, k]`` and ``labels[n]`` for the losses of rows, or their softmax, for which labels may be left
                out; ``v[n]`` and ``labels[n]`` for the mean of what counts; for the derivatives see cross_entropy_op.h.
            part: what is asked for.
            k: how many classes there are. Rows with other labels than 0 to k - 1 do not count.
        """

    @staticmethod
    def rectified(inputs: Sequence[jt.Var]) -> jt.Var:
        """ReLU of one array; or, of its result and several arrays as large, their sum where the result is positive."""

    @staticmethod
    def combination(inputs: Sequence[jt.Var], scale: float, other_scale: float) -> jt.Var:
        """``scale * a``, or ``scale * a + other_scale * b``, of any one shape."""

    @staticmethod
    def scaled(x: jt.Var, s: jt.Var) -> jt.Var:
        """``x`` times the number in ``s[1]``."""

    @staticmethod
    def inner_product(inputs: Sequence[jt.Var], starts_gradient: bool = False) -> jt.Var:
        """The sum of all entries' products, of the first half of the inputs with the second, of shape ``[1]``.

        Args:
            inputs: two arrays of each shape.
            starts_gradient: whether a gradient starts here, which then is the partner of an input itself.
        """
