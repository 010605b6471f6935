"""Tables, bunches, triples, float64 and targets of the wrong shape: what a loader may give, and what is said."""

import logging
import subprocess
import sys

from jboat import BilevelTrainer
import jittor as jt
from jittor import nn
import numpy as np
from problems import Classifier, Point
import pytest
from sklearn.datasets import load_iris

PROBLEM = Classifier()


class Table:
    """What pandas' tables are to jboat: something numpy makes an array of, which Python can also iterate over."""

    def __init__(self, values):
        self.values = np.asarray(values)

    def __array__(self, dtype=None, copy=None):
        return self.values if dtype is None else self.values.astype(dtype)

    def __iter__(self):
        return iter("columns")

    def __len__(self):
        return len(self.values)


def make(seen=None, wide=False, model=None, **arguments):
    ul_model, ll_model = PROBLEM.models()
    ll_model = model or ll_model
    for p in [*ll_model.parameters(), *ul_model.parameters()] if wide else []:
        p.update(jt.array(p.numpy().astype("float64"), dtype="float64"))

    def f(batch, ul_model, ll_model):
        if seen is not None:
            seen.append({name: v for name, v in batch.items() if isinstance(v, jt.Var)})
        return PROBLEM.f(batch, ul_model, ll_model)

    return BilevelTrainer(
        ll_model,
        ul_model,
        arguments.pop("f", f),
        arguments.pop("F", PROBLEM.F),
        ll_optimizer=jt.optim.SGD(ll_model.parameters(), 0.1),
        ul_optimizer=jt.optim.SGD(ul_model.parameters(), 0.1),
        lower_iters=2,
        **arguments,
    )


def test_tables_are_arrays():
    x, y = PROBLEM.train["data"], PROBLEM.train["target"]
    plain, tables = make(), make()
    plain.fit({"data": x, "target": y}, {"data": x, "target": y}, max_steps=2)
    tables.fit([(Table(x), Table(y))], {"data": Table(x), "target": Table(y)}, max_steps=2)
    np.testing.assert_array_equal(plain.ul_var[0].numpy(), tables.ul_var[0].numpy())
    with pytest.raises(
        TypeError, match=r"ll_loader must be a loader, got Table; a batch is a dict, or an \(x, y\) pair"
    ):
        tables.fit(Table(x), [(x, y)])
    with pytest.raises(TypeError, match=r"ll_loader is an \(x, y\) pair; write"):
        tables.fit((Table(x), Table(y)), [(x, y)])
    with pytest.raises(TypeError, match="'data' of a batch has dtype object"):
        tables.fit([(Table([["a", None]] * 24), Table(y))], [(x, y)], max_steps=1)


def test_arrays_of_half_precision_become_float32():
    x, y = PROBLEM.train["data"], PROBLEM.train["target"]
    seen = []
    make(seen).fit({"data": x.astype("float16"), "target": y}, {"data": x, "target": y}, max_steps=1)
    assert {str(batch["data"].dtype) for batch in seen} == {"float32"}


def test_an_empty_list_of_tasks_is_told_as_one():
    with pytest.raises(TypeError, match="loader gave an empty list, which holds neither arrays nor tasks"):
        make().evaluate([[]])


def test_a_bunch_of_scikit_learn_is_a_batch():
    iris = load_iris()
    seen = []
    ul_model, ll_model = Point(np.zeros(150)), nn.Linear(4, 3)

    def f(batch, ul_model, ll_model):
        seen.append(sorted(batch))
        losses = nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"], reduction="none")
        return (losses * ul_model().sigmoid()).mean()

    trainer = BilevelTrainer(
        ll_model, ul_model, f, PROBLEM.F,
        ll_optimizer=jt.optim.SGD(ll_model.parameters(), 0.1), ul_optimizer=jt.optim.SGD(ul_model.parameters(), 0.1),
    )  # fmt: skip
    trainer.fit(iris, [iris], max_steps=2, val_loader=iris)
    assert seen[0] == ["data", "target"]
    assert trainer.evaluate(iris) == trainer.evaluate({"data": iris.data, "target": iris.target})
    assert "target_names" in iris  # it stays as it is


def test_the_third_of_a_triple_is_the_index():
    x, y = PROBLEM.train["data"], PROBLEM.train["target"]
    index = np.arange(24)[::-1].copy()
    seen = []
    trainer = make(seen)
    trainer.fit([(x, y, index)], [(x, y)], max_steps=1)
    assert set(seen[0]) == {"data", "target", "index"}
    np.testing.assert_array_equal(seen[0]["index"].numpy(), index)
    assert trainer.evaluate([(x, y, index)]) == trainer.evaluate([(x, y)])
    with pytest.raises(TypeError, match=r"is an \(x, y\) pair"):
        trainer.fit((x, y, index), [(x, y)])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_model_in_float64_gets_float64(dtype):
    """The upper loss after two lower steps, in numpy's float64."""
    data = {**PROBLEM.train, "data": PROBLEM.train["data"].astype(dtype)}
    seen = []
    trainer = make(seen, wide=True)
    history = trainer.fit(data, dict(PROBLEM.val), max_steps=1)
    assert str(seen[0]["data"].dtype) == "float64"

    def descent(params, grads, state, step):
        return [p - 0.1 * g for p, g in zip(params, grads, strict=True)], state

    exact = PROBLEM.unrolled(PROBLEM.weights.astype("float64"), 2, descent)
    start = [p.astype("float32").astype("float64") for p in PROBLEM.start]
    assert history["ul_loss"][0] == pytest.approx(exact, rel=1e-6)
    assert len(start) == len(trainer.ll_var)
    assert np.isfinite(trainer.evaluate(data)["ul_loss"])
    assert str(trainer.hypergradient(data, data).gradients[0].dtype) == "float64"


def test_arrays_for_a_model_in_float32_become_float32():
    seen = []
    make(seen).fit({**PROBLEM.train, "data": PROBLEM.train["data"].astype("float64")}, dict(PROBLEM.val), max_steps=1)
    assert str(seen[0]["data"].dtype) == "float32"


def column(batch, ul_model, ll_model):
    return ((ll_model(batch["data"]) - batch["target"]) ** 2).mean() + 0.0 * ul_model().sum()


def reshaped(batch, ul_model, ll_model):
    return ((ll_model(batch["data"]) - batch["target"].reshape(-1, 1)) ** 2).mean() + 0.0 * ul_model().sum()


@pytest.mark.parametrize(("objective", "told"), [(column, 1), (reshaped, 0)])
def test_targets_beside_a_column_of_predictions_are_told_of_once(objective, told, caplog):
    batch = {"data": PROBLEM.train["data"], "target": np.arange(24, dtype="float32")}
    trainer = make(model=nn.Linear(6, 1), f=objective, F=objective)
    subtract = jt.Var.__sub__
    with caplog.at_level(logging.WARNING, "jboat"):
        for _ in range(2):
            trainer.fit(batch, batch, max_steps=1)
    said = [r.getMessage() for r in caplog.records if "[24, 24]" in r.getMessage()]
    assert len(said) == told
    what = "the entry 'target' of a batch of shape [24] meets one of shape [24, 1]"
    assert all(what in s and "reshape(-1, 1)" in s for s in said)
    assert jt.Var.__sub__ is subtract


def test_a_product_of_two_types_is_told_of_in_words():
    code = """if True:
        import sys
        sys.path[:0] = ["tests", "tests/test_trainers"]
        from test_data_as_people_have_it import PROBLEM, make
        import jittor as jt

        trainer = make(wide=True)
        var = {"data": jt.array(PROBLEM.train["data"]), "target": jt.array(PROBLEM.train["target"].astype("int32"))}
        try:
            trainer.fit(var, dict(PROBLEM.val), max_steps=1)
        except TypeError as error:
            print(error)
        print((jt.ones(3) + 1).numpy().sum())
        trainer.fit(dict(PROBLEM.train), dict(PROBLEM.val), max_steps=1)
        print(trainer.state.step)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, *rest = done.stdout.splitlines()
    assert first.startswith("Jittor multiplies no float32 matrix with a float64 one: cast one of the two")
    assert rest == ["6.0", "1"]
