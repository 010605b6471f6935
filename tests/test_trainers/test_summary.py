"""``trainer.summary()``: sizes counted by numpy, the chain as it runs, options in force, costs with numbers in them."""

from functools import partial
import re

from jboat import BilevelTrainer, registry
from jboat.callbacks import TensorBoardLogger
import jittor as jt
from jittor import nn
import numpy as np
from problems import Quadratic
import pytest
import small_trainers

make = partial(small_trainers.make, ul_optimizer=lambda params: jt.optim.Adam(params, 0.05), lower_iters=7)


def test_sizes_chain_and_options():
    trainer = make(
        gm_op=["NGD", "GDA"], na_op=["RAD", "PTT"], solver_config={"GDA": {"alpha_init": 0.25}}, accumulate=3
    )
    text = str(trainer.summary())
    for line in (
        "BilevelTrainer on cpu",
        "  lower model   Point: 8 numbers trained in 1 array",
        "  upper model   Point: 5 numbers trained in 1 array",
        "  chain         GDA -> NGD -> PTT -> RAD",
        "  options       GDA: alpha_init = 0.25, alpha_decay = ",
        "  lower level   7 steps of SGD (lr 0.1), whose state starts afresh; a batch; starts from where the last one",
        "  upper level   Adam (lr 0.05)",
        "  a step costs  GDA: ",
        "                NGD: 7 lower gradients",
        "                3 times, for the hypergradients that it averages",
    ):
        assert line in text, text
    assert repr(trainer) == (
        "BilevelTrainer(GDA -> NGD -> PTT -> RAD, lower_iters=7, ll_model=Point (8 numbers), "
        "ul_model=Point (5 numbers), step=0)"
    )


def test_what_is_not_trained_is_told_apart():
    ll_model, ul_model = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)), nn.Linear(4, 2)
    extra = jt.array(np.ones(5, "float32"))
    ul_model.bias.stop_grad()
    trainer = BilevelTrainer(
        ll_model,
        ul_model,
        lambda *a: None,
        lambda *a: None,
        ll_optimizer=jt.optim.SGD(ll_model.parameters(), 0.1),
        ul_optimizer=jt.optim.SGD([ul_model.weight, extra], 0.1),
        ul_var=[ul_model.weight, extra],
    )
    lower, upper = trainer.summary().models.values()
    assert (lower.numbers, lower.trained, lower.variables) == (6 * 3 + 3 + 4 * 3, 6 * 3 + 3 + 2 * 3, 4)
    assert (upper.numbers, upper.trained, upper.variables) == (4 * 2 + 2 + 5, 4 * 2 + 5, 2)
    assert "upper model   Linear: 13 numbers trained in 2 arrays, 2 numbers more that are not" in str(trainer.summary())


@pytest.mark.parametrize(
    ("arguments", "cost"),
    [
        ({}, {"NGD": "7 lower gradients", "RAD": "7 Hessian-vector products; memory of 7 steps"}),
        (
            {"solver_config": {"RAD": {"remat_every": 3}}},
            {"RAD": "7 Hessian-vector products; memory of 7 steps, or of 3 steps and 7 more gradients"},
        ),
        ({"na_op": ["CG"], "solver_config": {"CG": {"k": 4}}}, {"CG": "up to 4 Hessian-vector products"}),
        (
            {"na_op": ["CG"], "solver_config": {"CG": {"k": 4}}},
            {"CG": "up to 4 Hessian-vector products; memory of one step"},
        ),
        (
            {"na_op": ["CG"], "solver_config": {"CG": {"k": 4, "warm_start": True, "solver": "normal_cg"}}},
            {"CG": "up to 4 Hessian-vector products (9 with normal_cg), one more; memory of one step"},
        ),
        ({"gm_op": ["DM"]}, {"DM": "two gradients and one Hessian-vector product; no lower loop"}),
        ({"gm_op": ["DM"], "na_op": ["CG"]}, {"DM": "two gradients and one Hessian-vector product (two with CG)"}),
        ({"na_op": ["FD"]}, {"FD": "two gradients by x; memory of one step"}),
        (
            {"na_op": ["FD"], "solver_config": {"FD": {"through_optimizer": True}}},
            {"FD": "two gradients by x, and one by y; memory of one step"},
        ),
        (
            {"na_op": ["RGT", "RAD"], "solver_config": {"RGT": {"truncate_iter": 2}}},
            {"RGT": "none", "RAD": "5 Hessian-vector products and the memory of 5 steps"},
        ),
        ({"na_op": ["FOA", "IAD"]}, {"FOA": "none", "IAD": "one upper gradient"}),
        ({"fo_op": "VSO", "solver_config": {"VSO": {"z_loop": 6}}}, {"VSO": "6 + 7 + 2 lower gradients, 7 + 1 upper"}),
    ],
)
def test_costs_have_this_trainers_numbers(arguments, cost):
    found = make(**arguments).summary().cost
    for name, words in cost.items():
        assert found[name].startswith(words), found
        assert words != "none" or found[name] == "none"
    said = ("K", "k", "M", "lower_iters", "True", "False", "None")
    assert not any(word in re.findall(r"\w+", text) for text in found.values() for word in said)


def test_every_chain_and_method_has_a_summary():
    for name in registry.operators("fo"):
        assert f"{name}: " in str(make(fo_op=name).summary())
    text = str(make(gm_op=["DM"]).summary())
    assert "  lower level   SGD (lr 0.1), whose state" in text


def test_tensorboard_has_it_as_text(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = make(callbacks=[TensorBoardLogger(tmp_path)])
    trainer.fit({}, {}, max_steps=1)
    events = EventAccumulator(str(tmp_path)).Reload()
    text = events.Tensors("summary/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text == f"```\n{trainer.summary()}\n```"


def test_a_trainer_that_is_not_made_yet_has_a_repr():
    class Fails(BilevelTrainer):
        def configure_optimizers(self):
            raise LookupError(repr(self))

    problem = Quadratic()
    with pytest.raises(LookupError, match="Fails object at"):
        Fails(*problem.models(), problem.f, problem.F)
