"""Jittor operations in forms whose gradients run fast.

Six things make gradients slow on a CPU, most of all second derivatives:

* The gradient of everything made of ``jt.ternary``, ReLU among it, selects by a stored ``bool``, and g++ makes no
  vector code of a loop that loads one: 12 ms for 1.5 million numbers, where the same loop over bytes takes 0.7 ms.
* A matrix product is a sum over a three-dimensional product, which Jittor hands to oneDNN where it recognises it. In a
  second derivative it adds up the contributions to a factor before it sums, recognises nothing, and runs a plain loop.
  Products with few columns waste most of oneDNN's vectors.
* Exponentials are fused into every kernel that reads them, and computed again in each. Where such a kernel sums along
  rows, g++ makes no vector code of it either.
* Softmax and cross entropy subtract the largest entry of a row, and are differentiated by it, which gives zero.
* Kernels use one core. The bias of a linear layer, its gradient, a sum of columns, and what that adds to second
  derivatives take a tenth of the time of the product before it.
* A convolution is planned anew every time, and copies its result. The gradient by its bias is a sum over images and
  places without vector code.

Inside :func:`fast_gradients` conditions are stored as bytes, exponentials have a kernel of their own, the largest entry
is a constant, and products of matrices, linear layers, convolutions without groups, what is broadcast to the
channels of images, ReLU, softmax and cross entropy are operations of :mod:`jboat.cpu_ops`. Values and gradients are the
same up to rounding, but that ReLU keeps NaN, where Jittor's gives 0. On every device maximum, minimum and adaptive
maximum pooling are those of :mod:`jboat.pooling`, which have the second derivative that Jittor's lack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import contextlib
import functools
from typing import Any

from jboat import cpu_ops, cuda_gradients, functional, pooling, replaced_functions
import jittor as jt

Function = Callable[..., jt.Var]

_CONDITIONAL = tuple((jt, name) for name in ("ternary", "ternary_out_hint", "where"))
_EXPONENTIAL = tuple((owner, name) for owner in (jt, jt.Var) for name in ("exp", "sigmoid", "tanh", "erf"))
_SHIFTED = ((jt.nn, "cross_entropy_loss"), (jt.nn, "softmax"), (jt.Var, "softmax"))
_COMPUTED_IN_CPP = (
    (jt.Var, "broadcast"),
    (jt.nn, "linear"),
    (jt.nn.Linear, "execute"),
    (jt.nn, "conv2d"),
    (jt.nn, "conv"),
    (jt.nn.Conv, "execute"),
    (jt, "matmul"),
    (jt.nn, "matmul"),
    (jt.Var, "matmul"),
    (jt.Var, "__matmul__"),
    (jt.nn, "matmul_transpose"),
)
_MOST_OF_C = 2**31  # which C++'s integers do not reach
_RECTIFYING = ((jt.nn, "relu"), (jt.nn.ReLU, "execute"))
_MAXIMA = ((jt, "max"), (jt.Var, "max"))
_JITTORS = replaced_functions.originals(
    *_CONDITIONAL, *_EXPONENTIAL, *_SHIFTED, *_COMPUTED_IN_CPP, *_RECTIFYING, *_MAXIMA
)


@contextlib.contextmanager
def fast_gradients() -> Iterator[None]:
    """Let operations of Jittor build graphs whose gradients are fast, inside the block.

    ``fit``, ``hypergradient`` and ``evaluate`` of the trainer run in such a block, which may be nested. On a CPU it
    does nothing for other types than float32, or for products of other than matrices. On a GPU other operations are
    replaced, those of :mod:`jboat.cuda_gradients`. Several threads may run such blocks at once; other threads keep
    Jittor's operations. A function that was put in the place of one of Jittor's is used.
    """
    with replaced_functions.replaced(_for_cuda() if jt.flags.use_cuda else _for_cpus(cpu_ops.load())):
        yield


@functools.cache
def _for_cuda() -> dict[tuple[Any, str], Function]:
    found = {place: _by_constant_shift(_JITTORS[place]) for place in _SHIFTED}
    return found | cuda_gradients.replacements() | pooling.replacements()


@functools.cache
def _for_cpus(operations: cpu_ops.Operations | None) -> dict[tuple[Any, str], Function]:
    relu = _keeping_nan(_JITTORS[jt.nn, "relu"])
    found = {place: _by_bytes(_JITTORS[place]) for place in _CONDITIONAL}
    found |= {place: _computed_once(_JITTORS[place]) for place in _EXPONENTIAL}
    found |= {place: _by_constant_shift(_JITTORS[place]) for place in _SHIFTED}
    found |= {(jt.nn, "relu"): relu, (jt.nn.ReLU, "execute"): lambda layer, x: relu(x)} | pooling.replacements()
    if operations is not None:
        found |= _by_operations(
            operations,
            multiply=_JITTORS[jt.nn, "matmul"],
            multiply_transposed=_JITTORS[jt.nn, "matmul_transpose"],
            other_softmax=found[jt.nn, "softmax"],
            other_entropy=found[jt.nn, "cross_entropy_loss"],
            other_linear=_JITTORS[jt.nn, "linear"],
            other_linear_layer=_JITTORS[jt.nn.Linear, "execute"],
            other_broadcast=_JITTORS[jt.Var, "broadcast"],
            other_relu=relu,
            other_conv2d=_JITTORS[jt.nn, "conv2d"],
            other_convolution_layer=_JITTORS[jt.nn.Conv, "execute"],
        )
    return found


def _by_bytes(operation: Function) -> Function:
    def conditional(condition: Any, *values: Any) -> jt.Var:
        if values and isinstance(condition, jt.Var) and condition.dtype == "bool":
            condition = condition.uint8()
        return operation(condition, *values)

    return conditional


def _computed_once(operation: Function) -> Function:
    def computed_once(*args: Any, **kwargs: Any) -> jt.Var:
        return operation(*args, **kwargs).stop_fuse()

    return computed_once


def _by_constant_shift(operation: Function) -> Function:
    """``operation``, which subtracts maxima without depending on them, with these maxima constants."""

    def constant(largest: Function) -> Function:
        return lambda x, *axes, **options: largest(x.detach(), *axes, **options)

    constants = {place: constant(_JITTORS[place]) for place in _MAXIMA}

    def by_constant_shift(*args: Any, **kwargs: Any) -> jt.Var:
        with replaced_functions.replaced(constants):
            return operation(*args, **kwargs)

    return by_constant_shift


def _keeping_nan(relu: Function) -> Function:
    """``relu``, which gives 0 for NaN, with NaN for NaN, in its derivatives as well."""

    def keeping_nan(x: Any) -> jt.Var:
        if not isinstance(x, jt.Var) or not functional.is_float(x):
            return relu(x)
        constant = x.detach()
        is_nan = constant.isnan()
        passed = jt.ternary_out_hint((constant > 0.0) | is_nan, x, 0.0)
        return passed * jt.ternary_out_hint(is_nan, constant, 1.0)

    return keeping_nan


def _by_operations(
    operations: cpu_ops.Operations,
    *,
    multiply: Function,
    multiply_transposed: Function,
    other_softmax: Function,
    other_entropy: Function,
    other_linear: Function,
    other_linear_layer: Function,
    other_broadcast: Function,
    other_relu: Function,
    other_conv2d: Function,
    other_convolution_layer: Function,
) -> dict[tuple[Any, str], Function]:
    """Functions by owner and name that use :mod:`jboat.cpu_ops` where their arguments allow it, else those given."""

    def matmul(a: jt.Var, b: jt.Var) -> jt.Var:
        if _is_matrix(a) and _is_matrix(b) and a.shape[1] == b.shape[0]:
            return operations.matrix_product(a, b)
        return multiply(a, b)

    def matmul_transpose(a: jt.Var, b: jt.Var) -> jt.Var:
        if _is_matrix(a) and _is_matrix(b) and a.shape[1] == b.shape[1]:
            return operations.matrix_product(a, b, trans_b=True)
        return multiply_transposed(a, b)

    def softmax(x: jt.Var, dim: int | None = None, log: bool = False) -> jt.Var:
        if not log and x.dtype == "float32" and x.ndim > 1 and dim in (-1, x.ndim - 1):
            rows = x if x.ndim == 2 else x.reshape((-1, x.shape[-1]))
            p = operations.cross_entropy([rows], "softmax", x.shape[-1])
            return p if x.ndim == 2 else p.reshape(x.shape)
        return other_softmax(x, dim, log)

    def cross_entropy_loss(
        output: jt.Var, target: jt.Var, weight: Any = None, ignore_index: Any = None, reduction: str = "mean"
    ) -> jt.Var:
        plain = weight is None and ignore_index is None
        if not plain or not _is_matrix(output) or not _are_labels(target, output.shape[0]):
            return other_entropy(output, target, weight, ignore_index, reduction)
        labels = target if target.dtype == "int64" else target.int32()
        classes = output.shape[1]
        losses = operations.cross_entropy([output, labels], "losses", classes)
        if reduction == "mean":
            return operations.cross_entropy([losses, labels], "mean", classes)
        return losses.sum() if reduction == "sum" else losses

    def with_bias(x: jt.Var, weight: jt.Var, bias: Any) -> jt.Var | None:
        matrices = _is_matrix(x) and _is_matrix(weight) and x.shape[1] == weight.shape[1]
        if matrices and _is_plain(bias) and list(bias.shape) == [weight.shape[0]]:
            return operations.linear(x, weight, bias)
        return None

    def linear(x: jt.Var, weight: jt.Var, bias: Any = None) -> jt.Var:
        found = with_bias(x, weight, bias)
        return other_linear(x, weight, bias) if found is None else found

    def linear_layer(layer: jt.nn.Linear, x: jt.Var) -> jt.Var:
        found = with_bias(x, layer.weight, layer.bias)
        return other_linear_layer(layer, x) if found is None else found

    def broadcast(x: jt.Var, shape: Any, dims: Sequence[int] = ()) -> jt.Var:
        wanted = shape.shape if isinstance(shape, jt.Var) else shape
        of_channels = x.ndim == 1 and len(wanted) == 4 and x.shape[0] == wanted[1] and tuple(dims) == (0, 2, 3)
        if of_channels and x.dtype == "float32" and all(0 <= size < _MOST_OF_C for size in wanted):
            return operations.channels(x, wanted[0], *wanted[2:])
        return other_broadcast(x, shape, dims)

    def convolved(x: jt.Var, weight: jt.Var, bias: Any, *sizes: Any, groups: int) -> jt.Var | None:
        pairs = [side for size in sizes for side in (size if isinstance(size, tuple | list) else (size, size))]
        if groups != 1 or not _can_convolve(x, weight, bias, *pairs):
            return None
        inputs = [x, weight] if bias is None else [x, weight, bias]
        return operations.convolution(inputs, "convolved", [*x.shape[2:], *weight.shape[2:], *pairs])

    def conv2d(
        x: jt.Var,
        weight: jt.Var,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> jt.Var:
        found = convolved(x, weight, bias, stride, padding, dilation, groups=groups)
        return other_conv2d(x, weight, bias, stride, padding, dilation, groups) if found is None else found

    def convolution_layer(layer: jt.nn.Conv, x: jt.Var) -> jt.Var:
        sizes = (layer.stride, layer.padding, layer.dilation)
        found = convolved(x, layer.weight, layer.bias, *sizes, groups=layer.groups)
        return other_convolution_layer(layer, x) if found is None else found

    def relu(x: jt.Var) -> jt.Var:
        return operations.rectified([x]) if _is_plain(x) else other_relu(x)

    return {
        (jt.Var, "broadcast"): broadcast,
        (jt.nn, "linear"): linear,
        (jt.nn.Linear, "execute"): linear_layer,
        (jt.nn, "relu"): relu,
        (jt.nn, "conv2d"): conv2d,
        (jt.nn, "conv"): conv2d,
        (jt.nn.Conv, "execute"): convolution_layer,
        (jt.nn.ReLU, "execute"): lambda self, x: relu(x),
        **{(owner, "matmul"): matmul for owner in (jt, jt.nn, jt.Var)},
        (jt.Var, "__matmul__"): matmul,
        (jt.nn, "matmul_transpose"): matmul_transpose,
        (jt.nn, "softmax"): softmax,
        (jt.Var, "softmax"): softmax,
        (jt.nn, "cross_entropy_loss"): cross_entropy_loss,
    }


def _is_plain(a: Any) -> bool:
    return isinstance(a, jt.Var) and a.dtype == "float32" and not jt.flags.amp_reg


def _is_matrix(a: Any) -> bool:
    return _is_plain(a) and bool(a.ndim == 2)


def _are_labels(target: Any, count: int) -> bool:
    integers = ("int32", "int64", "int16", "int8", "uint8")
    return isinstance(target, jt.Var) and target.ndim == 1 and target.shape[0] == count and target.dtype in integers


def _can_convolve(x: jt.Var, weight: jt.Var, bias: Any, *sizes: Any) -> bool:
    variables = [x, weight] if bias is None else [x, weight, bias]
    if not all(_is_plain(v) for v in variables) or x.ndim != 4 or weight.ndim != 4:
        return False
    if x.shape[1] != weight.shape[1] or (bias is not None and list(bias.shape) != [weight.shape[0]]):
        return False
    if len(sizes) != 6 or not all(type(size) is int and size < _MOST_OF_C for size in sizes):
        return False
    stride, padding, dilation = sizes[:2], sizes[2:4], sizes[4:]
    return all(
        s >= 1 and p >= 0 and d >= 1 and n + 2 * p >= (k - 1) * d + 1
        for n, k, s, p, d in zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    )
