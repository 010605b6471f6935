"""Every operation in C++ says which of its inputs it cannot take, by type, dimensions and sizes, when it is called."""

from jboat.backend import cpu_ops
import jittor as jt
import numpy as np
import pytest

WINDOW = [5, 4, 2, 3, 1, 1, 0, 0, 1, 1]
IMAGES, KERNEL, BIAS, RESULT = (2, 3, 5, 4), (6, 3, 2, 3), (6,), (2, 6, 4, 2)
ROWS, NUMBERS, LABELS = (7, 4), (7,), "labels"

# by name: the call, and the shapes of the arrays that it takes
OPERATIONS = {
    "matrix_product": (lambda o, *v: o.matrix_product(*v), [(2, 3), (3, 4)]),
    "matrix_product transposed": (lambda o, *v: o.matrix_product(*v, trans_a=True, trans_b=True), [(3, 2), (4, 3)]),
    "linear": (lambda o, *v: o.linear(*v), [(2, 3), (4, 3), (4,)]),
    "linear_gradients": (lambda o, *v: o.linear_gradients(*v), [(2, 4), (2, 3)]),
    "convolution": (lambda o, *v: o.convolution([*v], "convolved", WINDOW), [IMAGES, KERNEL, BIAS]),
    "convolution by_x": (lambda o, *v: o.convolution([*v], "by_x", WINDOW), [KERNEL, RESULT]),
    "convolution by_k": (lambda o, *v: o.convolution([*v], "by_k", WINDOW), [IMAGES, RESULT]),
    "channels": (lambda o, *v: o.channels(*v, 2, 5, 4), [IMAGES]),
    "cross_entropy losses": (lambda o, *v: o.cross_entropy([*v], "losses", 4), [ROWS, LABELS]),
    "cross_entropy mean": (lambda o, *v: o.cross_entropy([*v], "mean", 4), [NUMBERS, LABELS]),
    "cross_entropy softmax": (lambda o, *v: o.cross_entropy([*v], "softmax", 4), [ROWS, LABELS]),
    "cross_entropy by_scores": (lambda o, *v: o.cross_entropy([*v], "by_scores", 4), [ROWS, ROWS]),
    "cross_entropy by_losses": (lambda o, *v: o.cross_entropy([*v], "by_losses", 4), [ROWS, LABELS, NUMBERS]),
    "cross_entropy along": (lambda o, *v: o.cross_entropy([*v], "along", 4), [ROWS, ROWS, LABELS]),
    "cross_entropy spread": (lambda o, *v: o.cross_entropy([*v], "spread", 4), [(1,), LABELS]),
    "cross_entropy scaled_rows": (lambda o, *v: o.cross_entropy([*v], "scaled_rows", 4), [ROWS, NUMBERS]),
    "cross_entropy row_products": (lambda o, *v: o.cross_entropy([*v], "row_products", 4), [ROWS, ROWS]),
    "rectified": (lambda o, *v: o.rectified([*v]), [(2, 3), (2, 3), (6,)]),
    "combination": (lambda o, *v: o.combination([*v], 2.0, 1.0), [(2, 3), (2, 3)]),
    "scaled": (lambda o, *v: o.scaled(*v), [(2, 3), (1,)]),
    "inner_product": (lambda o, *v: o.inner_product([*v]), [(2, 3), (4,), (2, 3), (4,)]),
}
INPUTS = [(name, number) for name, (_, shapes) in OPERATIONS.items() for number in range(len(shapes))]
ANY_SHAPE = {("scaled", 0)}


def arrays(name):
    shapes = OPERATIONS[name][1]
    return [jt.array(np.zeros(7, "int64")) if s == LABELS else jt.ones(s) for s in shapes]


def refused(name, given):
    operation = name.split()[0]
    with pytest.raises(RuntimeError, match=rf"{operation}: .*must.*but") as caught:
        OPERATIONS[name][0](cpu_ops.load(), *given)
    return str(caught.value)


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_fits_is_taken(name):
    found = OPERATIONS[name][0](cpu_ops.load(), *arrays(name))
    jt.sync(list(found) if isinstance(found, tuple | list) else [found])


@pytest.mark.parametrize(("name", "number"), INPUTS)
@pytest.mark.parametrize("dtype", ["float64", "float16", "int8", "bool"])
def test_inputs_of_other_types_are_refused(name, number, dtype):
    given = arrays(name)
    given[number] = given[number].cast(dtype)
    assert f"but is {dtype}" in refused(name, given).replace("but are", "but is")


@pytest.mark.parametrize(("name", "number"), [i for i in INPUTS if i not in ANY_SHAPE])
@pytest.mark.parametrize("change", ["one axis more", "first size", "last size", "nothing in it"])
def test_inputs_of_other_shapes_are_refused(name, number, change):
    given = arrays(name)
    shape, dtype = list(given[number].shape), str(given[number].dtype)
    if change == "one axis more":
        shape.append(2)
    else:
        shape[0 if change == "first size" else -1] = 0 if change == "nothing in it" else 9
    given[number] = jt.ones(shape).cast(dtype)
    free = {  # sizes that nothing else tells
        "matrix_product": {"first size": [0], "last size": [1], "nothing in it": [1]},
        "matrix_product transposed": {"first size": [1], "last size": [0], "nothing in it": [0]},
        "linear_gradients": {"last size": [0, 1], "nothing in it": [0, 1]},
        "linear": {"first size": [0]},
        "convolution": {"first size": [0]},
        "convolution by_x": {"first size": [1]},
        "cross_entropy spread": {"first size": [1], "last size": [1], "nothing in it": [1]},
    }
    if number in free.get(name, {}).get(change, []):
        OPERATIONS[name][0](cpu_ops.load(), *given)
    else:
        refused(name, given)


def test_an_array_larger_than_the_machine_is_refused():
    with pytest.raises(RuntimeError, match="too large for this machine"):
        cpu_ops.load().channels(jt.ones(2**10), 2**10, 2**10, 2**10)
