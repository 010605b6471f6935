"""Lower losses are computed where somebody wants them, and only there."""

from jboat.callbacks import Callback
import jittor as jt
from problems import Quadratic
import pytest
from small_trainers import make


def test_lower_losses_are_those_of_every_inner_step_and_change_nothing():
    class Compare(Callback):
        def __init__(self, wanted):
            self.wanted, self.losses, self.last, self.gradient = wanted, [], [], []

        def wants_lower_losses(self, trainer, state):
            return self.wanted

        def on_hypergradient_end(self, trainer, state, result):
            self.losses.append(result.ll_losses)
            self.last.append(result.lower_loss)
            self.gradient.append(result.gradients[0].numpy().tobytes())

    watched, left_alone = Compare(True), Compare(False)
    for callback in (watched, left_alone):
        trainer = make(callback)
        trainer.fit({}, {}, max_steps=3)
    assert left_alone.losses == [[], [], []]
    assert [len(losses) for losses in watched.losses] == 3 * [trainer.lower_iters]
    assert all(sorted(losses, reverse=True) == losses for losses in watched.losses)
    assert [losses[-1] for losses in watched.losses] == pytest.approx(watched.last)
    assert watched.last == left_alone.last
    assert watched.gradient == left_alone.gradient


class Counted(Quadratic):
    """f plus a zero whose value no gradient needs, and that counts how often it is computed."""

    def __init__(self):
        super().__init__()
        self.computed = 0

    def f(self, batch, ul_model, ll_model):
        return super().f(batch, ul_model, ll_model) + jt.numpy_code([1], "float32", [], self.zero)

    def zero(self, _, data):
        self.computed += 1
        data["outputs"][0][:] = 0.0


CHAINS = [
    {"na_op": ["RAD"]},
    {"na_op": ["RAD"], "solver_config": {"RAD": {"remat_every": 1}}},
    {"na_op": ["CG"]},
    {"na_op": ["FD"]},
    {"na_op": ["IGA"]},
]


@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_an_outer_step_computes_one_lower_loss(chain):
    problem = Counted()
    trainer = make(problem=problem, **chain)
    trainer.hypergradient({}, {}, check_second_order=False)
    assert problem.computed == 1
