"""Nothing that Python hands to operations in C++ ends the process; of empty arrays they make what Jittor makes."""

import os
from pathlib import Path
import subprocess
import sys

from jboat import autodiff
from jboat.fast_gradients import fast_gradients
import jittor as jt
from jittor import nn
import numpy as np
import pytest


def test_no_input_ends_the_process(tmp_path):
    last = tmp_path / "last_call.txt"
    worker = Path(__file__).with_name("any_input_worker.py")
    # by a shell, since Jittor ends a process one of whose own children was killed
    command = ["sh", "-c", '"$0" "$@"; echo $?', sys.executable, str(worker), str(last)]
    # one thread, since OpenMP ends a process in which it cannot start another
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500)
    *printed, status = done.stdout.splitlines()
    assert status == "0", f"ended by {status} at: {last.read_text()}\n{done.stderr[-2000:]}"
    answered, refused = map(int, printed[-1].split())
    assert answered > 1000  # most calls that fit do not end in an exception
    assert refused > 1000


@pytest.mark.parametrize("shape", [(3, 0), (0, 4), (0, 0), (2, 3, 0)])
def test_softmax_over_nothing_is_an_empty_array(shape):
    with fast_gradients():
        x = jt.zeros(shape)
        p = nn.softmax(x, -1)
        (gradient,) = autodiff.grad(p.sum(), [x])
    assert p.numpy().shape == gradient.numpy().shape == shape


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_of_no_classes_is_nan(reduction):
    with fast_gradients():
        loss = nn.cross_entropy_loss(jt.zeros((3, 0)), jt.zeros(3, "int32"), reduction=reduction)
        assert np.isnan(loss.numpy()).all()
        assert loss.shape == [3 if reduction == "none" else 1]


def test_a_stride_of_zero_is_an_error():
    with fast_gradients(), pytest.raises(ZeroDivisionError):
        nn.conv2d(jt.ones((2, 3, 5, 5)), jt.ones((2, 3, 3, 3)), None, 0)


EMPTY = {"images": (0, 2, 2, 1), "inputs": (2, 0, 2, 1), "outputs": (2, 2, 0, 1), "kernel": (2, 2, 3, 0)}


@pytest.mark.parametrize(("n", "i", "o", "size"), EMPTY.values(), ids=EMPTY)
@pytest.mark.parametrize("bias", [False, True])
def test_convolutions_over_nothing(n, i, o, size, bias):
    x, k, b = jt.ones((n, i, 4, 3)), jt.ones((o, i, size, size)), jt.array(np.arange(o, dtype="float32") + 1)
    inputs = [x, k, b] if bias else [x, k]
    plain = nn.conv2d(*inputs)
    with fast_gradients():
        out = nn.conv2d(*inputs)
        gradients = autodiff.grad((out * out).sum(), inputs)
    places = (4 - size + 1) * (3 - size + 1)
    assert out.shape == plain.shape
    np.testing.assert_array_equal(out.numpy(), np.broadcast_to((b.numpy() * bias)[:, None, None], out.shape))
    for gradient, a in zip(gradients[:2], inputs, strict=False):
        np.testing.assert_array_equal(gradient.numpy(), np.zeros(a.shape))
    if bias:
        np.testing.assert_array_equal(gradients[2].numpy(), 2 * n * places * b.numpy())
