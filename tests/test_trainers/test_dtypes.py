"""A parameter keeps its dtype whatever the other level's is."""

from jboat import BilevelTrainer
import jittor as jt
import numpy as np
import pytest


class Vector(jt.Module):
    def __init__(self, values, dtype):
        self.v = jt.array(np.array(values), dtype=dtype)


def f(batch, ul, ll):
    return 0.5 * ((ll.v - ul.v) ** 2).sum()


def F(batch, ul, ll):
    return 0.5 * ((ll.v - 1.0) ** 2).sum()


CHAINS = {
    **{name: {"na_op": [name]} for name in ("RAD", "CG", "NS", "FD", "IGA", "IAD")},
    "DI": {"gm_op": ["DI", "NGD"]},
    "GDA": {"gm_op": ["GDA", "NGD"]},
    "DM": {"gm_op": ["DM"]},
    "DM+CG": {"gm_op": ["DM"], "na_op": ["CG"]},
    **{name: {"fo_op": name} for name in ("VFO", "MESO", "PGDO", "GAFFO", "VSO", "ALTO")},
}


@pytest.mark.parametrize(("lower", "upper"), [("float32", "float64"), ("float64", "float32")])
@pytest.mark.parametrize("name", [name for name in CHAINS if name != "IAD"])
def test_both_levels_keep_their_dtypes(name, lower, upper):
    ll_model, ul_model = Vector([0.0, 0.5], lower), Vector([3.0, 2.0], upper)
    trainer = BilevelTrainer(
        ll_model,
        ul_model,
        f,
        F,
        ll_optimizer=jt.optim.SGD(ll_model.parameters(), 0.25, momentum=0.5),
        ul_optimizer=jt.optim.Adam(ul_model.parameters(), 0.25),
        lower_iters=2,
        ll_optimizer_state="carry",
        **CHAINS[name],
    )
    for _ in range(2):
        trainer.fit({}, {}, max_steps=1)
        assert (str(ll_model.v.dtype), str(ul_model.v.dtype)) == (lower, upper)
    held = [v for group in trainer.ll_optimizer.param_groups for v in group["values"]]
    assert {str(v.dtype) for v in held} == {lower}
    result = trainer.hypergradient({}, {})
    assert [str(v.dtype) for v in result.gradients] == [upper]
    assert [str(v.dtype) for v in result.ll_parameters] == [lower]


@pytest.mark.parametrize(("lower", "upper"), [("float32", "float64"), ("float64", "float32"), ("float64", "float64")])
def test_the_unrolled_hypergradient_is_right_in_mixed_dtypes(lower, upper):
    ll_model, ul_model = Vector([0.0, 0.5], lower), Vector([3.0, 2.0], upper)
    trainer = BilevelTrainer(
        ll_model,
        ul_model,
        f,
        F,
        ll_optimizer=jt.optim.SGD(ll_model.parameters(), 0.25),
        ul_optimizer=jt.optim.SGD(ul_model.parameters(), 0.25),
        lower_iters=3,
    )
    x, y = np.array([3.0, 2.0]), np.array([0.0, 0.5])
    y = x + 0.75**3 * (y - x)
    exact = (1 - 0.75**3) * (y - 1.0)
    got = trainer.hypergradient({}, {}).gradients[0]
    np.testing.assert_allclose(got.numpy(), exact, rtol=1e-6)
