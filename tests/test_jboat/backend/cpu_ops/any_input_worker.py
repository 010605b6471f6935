"""Calls operations in C++ with whatever Python can hand over. An exception is an answer, a process that ends is none.

Every call is written to the file named on the command line before it is made, so that the last one is known.
"""

from collections.abc import Iterator
import itertools
import os
import random
import resource
import sys

from jboat import autodiff
from jboat.backend import cpu_ops
from jboat.fast_gradients import fast_gradients
import jittor as jt
from jittor import nn
import numpy as np

SIZES = (0, 1, 2)
INTEGERS = (0, 1, 2, 3, 5, -1, -2, 9, 2**31 - 1, -(2**31), 2**31, 2**32, 2**32 + 1, 2**63 - 1)
DTYPES = ("float32", "float32", "float32", "float32", "int32", "int64", "float64", "bool", "uint8")
PARTS = ("losses", "mean", "softmax", "by_scores", "by_losses", "along", "spread", "scaled_rows", "row_products")
OF_CONVOLUTIONS = ("convolved", "by_x", "by_k")
draw = random.Random(0)


def array(shape, dtype="float32"):
    return jt.array(np.ones(shape, dtype), dtype=dtype)


def some_array():
    shape = [draw.choice((0, 1, 2, 2, 3)) for _ in range(draw.choice((1, 1, 2, 2, 2, 3, 4, 4, 5)))]
    return array(shape, draw.choice(DTYPES))


def some_integer():
    return draw.choice(INTEGERS[:4] if draw.random() < 0.7 else INTEGERS)


def some_flag():
    return draw.random() < 0.5


def some_name(names):
    return draw.choice((*names, *names, *PARTS, "", "Softmax", "\0", "mean\0", "x" * 1000, 0, None))


def any_calls(count) -> Iterator[tuple[str, list]]:
    """Operations with arguments of the right types, and hardly ever of the right shapes or values."""
    for _ in range(count):
        arrays = [some_array() for _ in range(draw.choice((0, 1, 2, 2, 2, 3, 3, 4)))]
        yield "matrix_product", [some_array(), some_array(), some_flag(), some_flag()]
        yield "linear", [some_array(), some_array(), some_array()]
        yield "linear_gradients", [some_array(), some_array()]
        sizes = [some_integer() for _ in range(draw.choice((4, 10, 10, 10, 11)))]
        yield "convolution", [arrays, some_name(OF_CONVOLUTIONS), sizes]
        yield "channels", [some_array(), some_integer(), some_integer(), some_integer()]
        yield "cross_entropy", [arrays, some_name(PARTS), some_integer()]
        yield "cross_entropy", [arrays, draw.choice(PARTS), some_integer()]
        yield "rectified", [arrays]
        yield "combination", [arrays, 2.0, -1.0]
        yield "scaled", [some_array(), some_array()]
        yield "inner_product", [arrays, some_flag()]


def fitting_calls() -> Iterator[tuple[str, list]]:
    """Operations with arguments that fit one another, of all small sizes."""
    for n, m, k in itertools.product(SIZES, repeat=3):
        labels = [array([n], "int32"), array([n], "int64")]
        yield "matrix_product", [array([n, m]), array([m, k]), False, False]
        yield "matrix_product", [array([m, n]), array([k, m]), True, True]
        yield "linear", [array([n, m]), array([k, m]), array([k])]
        yield "linear_gradients", [array([n, m]), array([n, k])]
        for part, t in itertools.product(PARTS, labels):
            rows, numbers = array([n, k]), array([n])
            inputs = {
                "losses": [rows, t], "mean": [numbers, t], "softmax": [rows, t], "by_scores": [rows, rows],
                "by_losses": [rows, t, numbers], "along": [rows, rows, t], "spread": [array([1]), t],
                "scaled_rows": [rows, numbers], "row_products": [rows, rows],
            }[part]  # fmt: skip
            yield "cross_entropy", [inputs, part, k]
        yield "cross_entropy", [[array([n, k])], "softmax", k]
        yield "rectified", [[array([n, m, k])]]
        yield "rectified", [[array([n, m, k]), array([n, m, k]), array([n * m, k])]]
        yield "combination", [[array([n, m]), array([n, m])], 2.0, 1.0]
        yield "scaled", [array([n, m]), array([1])]
        yield "inner_product", [[array([n, m]), array([k]), array([n, m]), array([k])], False]
        yield "channels", [array([m]), n, k, 2]
        yield "channels", [array([n, m, k, 2]), n, k, 2]
    yield "channels", [array([2]), 2**31 - 1, 1, 1]  # where Jittor gets no memory, and goes on
    one = array([1, 1, 1, 1])
    yield "convolution", [[one, one], "convolved", [1, 1, 1, 1, 1, 1, 30000, 30000, 1, 1]]
    for n, i, o, size, kernel in itertools.product(SIZES, SIZES, SIZES, SIZES, SIZES):
        stride, padding, dilation = (draw.choice(SIZES) for _ in range(3))
        sizes = [size, 2, kernel, draw.choice(SIZES), stride, 1, padding, draw.choice(SIZES), dilation, 1]
        inputs = [array([n, i, size, 2]), array([o, i, *sizes[2:4]]), array([o])]
        yield "convolution", [inputs[: draw.choice((2, 3))], "convolved", sizes]


def calls_of_layers() -> Iterator[tuple[str, list]]:
    """Functions of Jittor's that the operations stand behind."""
    for size, kernel, stride in itertools.product(SIZES, SIZES, SIZES):
        yield "conv2d", [array([1, 2, size, 2]), array([2, 2, kernel, 1]), None, stride]
    for n, k in itertools.product(SIZES, SIZES):
        yield "softmax", [array([n, k]), -1]
        yield "softmax", [array([2, n, k]), -1]
        for reduction in ("mean", "sum", "none"):
            yield "cross_entropy_loss", [array([n, k]), array([n], "int64"), None, None, reduction]


def other_convolutions() -> Iterator[tuple[str, list]]:
    """Those that are Jittor's, or nobody's."""
    images, kernel = array([1, 1, 3, 3]), array([1, 1, 2, 2])
    for name, value in itertools.product(
        ("stride", "padding", "dilation"), (*INTEGERS, 1.0, (1,), (1, 2, 3), "1", None)
    ):
        yield "conv2d", [images, kernel, None, *({"stride": 1, "padding": 0, "dilation": 1} | {name: value}).values()]


def limit_memory(rest):
    """So many bytes more than now, whatever machine this is: arrays of 2 ** 31 numbers are not to be had."""
    with open("/proc/self/statm") as sizes:
        now = int(sizes.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + rest, resource.getrlimit(resource.RLIMIT_AS)[1]))


def answer(call, arguments):
    """The call, and its derivative by all arrays that have one."""
    out = call(*arguments)
    jt.sync(list(out) if isinstance(out, tuple | list) else [out])  # alone, since Jittor's own kernels need memory too
    given = [v for a in arguments for v in (a if isinstance(a, list) else [a]) if isinstance(v, jt.Var)]
    for result in out if isinstance(out, tuple | list) else [out]:
        at = [v for v in given if v.dtype == "float32"]
        jt.sync([result, *autodiff.vjp([result], at, [jt.ones(result.shape)])])


def main(path):
    operations = cpu_ops.load()
    limit_memory(4 << 30)
    answered = refused = 0
    with open(path, "w") as last, fast_gradients():

        def run(name, call, arguments, *, is_run=True):
            nonlocal answered, refused
            last.seek(0)
            shown = [f"{list(a.shape)} {a.dtype}" if isinstance(a, jt.Var) else repr(a) for a in arguments]
            print(name, *shown, file=last, flush=True)
            last.truncate()
            try:
                answer(call, arguments) if is_run else call(*arguments)
                answered += 1
            except Exception:
                refused += 1

        for name, arguments in (*fitting_calls(), *any_calls(400)):
            run(name, getattr(operations, name), arguments)
        for name, arguments in calls_of_layers():
            run(name, getattr(nn, name), arguments)
        for name, arguments in other_convolutions():  # every stride would be a kernel
            run(name, getattr(nn, name), arguments, is_run=False)
    sys.stdout.write(f"{answered} {refused}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
