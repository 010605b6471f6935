"""Gradients in float64 after one in float32 in the same process, where Jittor's own start with 0."""

import subprocess
import sys

CODE = """
import jboat
from jboat import BilevelTrainer, autodiff
import jittor as jt
import numpy as np

rng = np.random.default_rng(0)
shapes = [(3, 6), (3,)]


def made(dtype):
    return [jt.array(rng.normal(size=shape), dtype=dtype) for shape in shapes]


def product(a, b):
    return sum((x * y).sum() for x, y in zip(a, b))


one = jt.array([1.0])  # a kernel of its own stores what two others read
jt.sync([one.broadcast(shape) * v for shape, v in zip(shapes, made("float32"))])

v, direction = made("float64"), made("float64")
for found in (autodiff.grad(product(v, direction), v), autodiff.vjp([product(v, direction)], v, [jt.ones(1)])):
    for g, d in zip(found, direction):
        np.testing.assert_array_equal(g.numpy(), d.numpy())

cubes = autodiff.grad(sum((x * x * x).sum() for x in v), v)
for g, x, d in zip(autodiff.vjp(cubes, v, direction), v, direction):
    np.testing.assert_allclose(g.numpy(), 6.0 * x.numpy() * d.numpy(), rtol=1e-14)


class Values(jt.Module):
    def __init__(self):
        self.a, self.b = made("float64")


levels = Values(), Values()
optimizers = [jt.optim.SGD(level.parameters(), 0.5) for level in levels]
names = "ll_optimizer", "ul_optimizer"


def between(batch, ul_model, ll_model):
    return sum((d * d).sum() for d in (ll_model.a - ul_model.a, ll_model.b - ul_model.b))


def from_zero(batch, ul_model, ll_model):
    return (ll_model.a * ll_model.a).sum() + (ll_model.b * ll_model.b).sum()


trainer = BilevelTrainer(*levels, between, from_zero, **dict(zip(names, optimizers)), lower_iters=1)
before = levels[1].a.numpy(), levels[1].b.numpy()
trainer.fit({}, {}, max_steps=1)  # one lower step of rate 1/2 leads to y = x, so that the hypergradient is 2 x
for variable, start in zip((levels[1].a, levels[1].b), before):
    np.testing.assert_allclose(variable.numpy(), 0.0 * start, atol=1e-14)
print("right")
"""


def test_gradients_in_float64_are_not_zero():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.stdout == "right\n", done.stderr[-2000:]
