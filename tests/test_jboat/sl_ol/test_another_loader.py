"""SABA on a loader with fewer batches than the one before: what it remembered of that one is forgotten, once."""

from jboat import BilevelTrainer
import jittor as jt
from problems import NoisyQuadratic

PROBLEM = NoisyQuadratic()


def test_saba_remembers_the_batches_of_a_shorter_loader():
    ul_model, ll_model = PROBLEM.models()
    trainer = BilevelTrainer(
        ll_model,
        ul_model,
        PROBLEM.f,
        PROBLEM.F,
        ll_optimizer=jt.optim.SGD(list(ll_model.parameters()), 0.1),
        ul_optimizer=jt.optim.SGD(list(ul_model.parameters()), 0.01),
        sl_op="SABA",
    )
    lower, upper = PROBLEM.loaders()
    trainer.fit(lower, upper, max_steps=4)
    assert {"lower.3", "upper.2"} <= set(trainer.auxiliary)
    trainer.fit(lower[:2], upper[:2], max_steps=8)
    assert trainer.state.step == 12
    assert set(trainer.auxiliary) == {"v", *(f"{level}.{i}" for level in ("lower", "upper") for i in (0, 1, "sum"))}
    for level in ("lower", "upper"):
        for total, first, second in zip(*(trainer.auxiliary[f"{level}.{i}"] for i in ("sum", 0, 1)), strict=True):
            assert abs((first + second - total).numpy()).max() <= 1e-5
