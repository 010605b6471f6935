"""A first-order method takes the gradients that its formula has, each of them once."""

from collections import Counter
from functools import partial

import jittor as jt
from problems import Quadratic
import pytest
from small_trainers import make


class Counted(Quadratic):
    """f and F plus a zero that counts the gradients computed by each level's variables."""

    def __init__(self):
        super().__init__()
        self.taken = Counter()

    def f(self, batch, ul_model, ll_model):
        return super().f(batch, ul_model, ll_model) + self.zero("f", ul_model(), ll_model())

    def F(self, batch, ul_model, ll_model):
        return super().F(batch, ul_model, ll_model) + self.zero("F", ul_model(), ll_model())

    def zero(self, name, x, y):
        def forward(_, data):
            data["outputs"][0][:] = 0.0

        def backward(gradient, _, data):
            self.taken[gradient] += 1
            data["outputs"][0][:] = 0.0

        return jt.numpy_code(
            [1], "float32", [x, y], forward, [partial(backward, f"{name} by x"), partial(backward, f"{name} by y")]
        )


LOWER_ITERS, Z_LOOP = 3, 2
GAP = {"f by y": LOWER_ITERS, "f by x": 2, "F by y": 1, "F by x": 1}  # at y, at y_hat and on the way there
MOREAU = {"f by y": 2, "f by x": 2, "F by y": 1, "F by x": 1}  # at y and at theta
EXPECTED = {
    "VFO": GAP,
    "PGDO": GAP,
    "MESO": MOREAU,
    "GAFFO": MOREAU,
    "ALTO": {"f by y": 1, "F by x": 1},
    "VSO": {"f by y": Z_LOOP + LOWER_ITERS, "f by x": 2, "F by y": LOWER_ITERS, "F by x": 1},
}


@pytest.mark.parametrize("method", EXPECTED)
def test_every_gradient_of_the_formula_is_taken_once(method):
    problem = Counted()
    trainer = make(
        problem=problem,
        ll_lr=0.01,
        ul_lr=0.01,
        fo_op=method,
        lower_iters=LOWER_ITERS,
        solver_config={"VSO": {"z_loop": Z_LOOP}} if method == "VSO" else None,
    )
    trainer.hypergradient({}, {})
    assert problem.taken == EXPECTED[method]
