"""jboat's operations for CPUs beside what Jittor makes of the same: products, convolutions, cross entropy.

Both are measured in turn in one process; medians. Before them comes what the processor can do at most (peak.cc).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
import statistics
import subprocess
import sys
import tempfile
import time

import jboat  # noqa: F401  (before Jittor)
from jboat import autodiff
from jboat.backend import cpu_ops
from jboat.fast_gradients import fast_gradients
import jittor as jt
from jittor import nn
import numpy as np

SHAPES = [(1000, 1000, 20), (5000, 784, 10), (5000, 300, 10), (5000, 784, 300)]
CONVOLUTIONS = [(3, 32, 1), (3, 32, 2), (32, 16, 2)]  # channels, height and width, stride
FILTERS = 32
SCORES = [(1000, 20), (5000, 10)]
Call = Callable[[], list[jt.Var]]
Value = Callable[[], jt.Var]


def peak() -> str:
    """Billions of operations a second with data in registers, in words."""
    source = Path(__file__).with_name("peak.cc")
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "peak")
        subprocess.run(["g++", "-O2", "-march=native", "-fopenmp", str(source), "-o", program], check=True)
        found, threads, _ = subprocess.run([program], check=True, capture_output=True, text=True).stdout.split()
    return f"The processor does at most {found} GFLOP/s with {threads} threads."


def in_turn(jittors: Call, ours: Call, repeat: int) -> tuple[float, float]:
    """Milliseconds of both, and nothing lazy left between them."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(repeat + 3):
        for call, taken in zip((jittors, ours), times, strict=True):
            jt.sync_all(True)
            begun = time.perf_counter()
            jt.sync(call())
            jt.sync_all(True)
            if number >= 3:
                taken.append(1000 * (time.perf_counter() - begun))
    return statistics.median(times[0]), statistics.median(times[1])


def main() -> None:
    """Measure and print tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=60)
    args = parser.parse_args()
    operations = cpu_ops.load()
    if operations is None:
        sys.exit("jboat's operations for CPUs cannot be had here; see the warning above, or python -m jboat doctor")
    rng = np.random.default_rng(0)

    print(f"{peak()}\n\n| product | Jittor ms | jboat ms | jboat GFLOP/s |\n| --- | --- | --- | --- |")
    for n, m, k in SHAPES:
        x, w, g = (jt.array(rng.normal(size=s).astype("float32")) for s in [(n, m), (k, m), (n, k)])
        cases: dict[str, tuple[Call, Call]] = {
            f"[{n}, {m}] [{k}, {m}]'": (
                lambda x=x, w=w: [nn.matmul_transpose(x, w)],
                lambda x=x, w=w: [operations.matrix_product(x, w, False, True)],
            ),
            f"[{n}, {k}]' [{n}, {m}]": (
                lambda x=x, g=g: [jt.compile_extern.mkl_ops.mkl_matmul(g, x, True, False)],
                lambda x=x, g=g: [operations.matrix_product(g, x, True, False)],
            ),
        }
        for name, calls in cases.items():
            ms = in_turn(*calls, args.repeat)
            print(f"| {name} | {ms[0]:.2f} | {ms[1]:.2f} | {2e-6 * n * m * k / ms[1]:.0f} |", flush=True)

    print("\n| 3 x 3 convolution of 64 images | derivative | Jittor ms | jboat ms |\n| --- | --- | --- | --- |")
    for channels, size, stride in CONVOLUTIONS:
        images, weight, v = (
            jt.array(rng.normal(size=s).astype("float32"))
            for s in [(64, channels, size, size), (FILTERS, channels, 3, 3), (FILTERS, channels, 3, 3)]
        )
        bias = jt.zeros(FILTERS)
        jt.sync([images, weight, v, bias])

        def value(images: jt.Var = images, weight: jt.Var = weight, bias: jt.Var = bias, s: int = stride) -> jt.Var:
            out = nn.relu(nn.conv2d(images, weight, bias, stride=s, padding=1))
            return (out * out).mean()

        def of_layer(weight: jt.Var = weight, bias: jt.Var = bias, value: Value = value) -> list[jt.Var]:
            return autodiff.grad(value(), [weight, bias])

        def second_of_layer(weight: jt.Var = weight, v: jt.Var = v, gradient: Call = of_layer) -> list[jt.Var]:
            return autodiff.vjp(gradient()[:1], [weight], [v])

        report(f"{channels} x {size} x {size} to {FILTERS}, stride {stride}", of_layer, second_of_layer, args.repeat)

    print("\n| cross entropy | derivative | Jittor ms | jboat ms |\n| --- | --- | --- | --- |")
    for n, k in SCORES:
        z, v = (jt.array(rng.normal(size=(n, k)).astype("float32")) for _ in range(2))
        target = jt.array(rng.integers(0, k, n).astype("int32"))

        def gradient(z: jt.Var = z, target: jt.Var = target) -> list[jt.Var]:
            return autodiff.grad(nn.cross_entropy_loss(z, target), [z])

        def second(z: jt.Var = z, v: jt.Var = v, gradient: Call = gradient) -> list[jt.Var]:
            return autodiff.vjp(gradient(), [z], [v])

        report(f"[{n}, {k}]", gradient, second, args.repeat)


def report(name: str, first: Call, second: Call, repeat: int) -> None:
    """Rows of a table: first and second derivatives with and without jboat's operations."""
    for order, call in (("first", first), ("second", second)):

        def fast(call: Call = call) -> list[jt.Var]:
            with fast_gradients():
                return call()

        ms = in_turn(call, fast, repeat)
        print(f"| {name} | {order} | {ms[0]:.2f} | {ms[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
