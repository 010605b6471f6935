"""What objectives do with arrays of several tasks: what works gives each task's own, and what does not is named."""

from jboat.backend.stacked.array import NotStackedError, Stacked
from jboat.backend.stacked.places import stacking
from jboat.stacked_objective import StackedObjective
import jittor as jt
from jittor import nn
import numpy as np
import pytest

TASKS, ROWS, COLUMNS = 2, 3, 4
SCORES = np.random.default_rng(0).normal(size=(TASKS, ROWS, COLUMNS)).astype("float32")
LABELS = np.int32([[0, 2, 3], [1, 1, 0]])


def softmax(rows):
    exponentials = np.exp(rows.astype("float64"))
    return exponentials / exponentials.sum(-1, keepdims=True)


WORKING = {
    "squeeze of an axis": (lambda a: a[:, :1].squeeze(-1), lambda a: a[:, 0]),
    "squeeze of all axes": (lambda a: a[:, :1].squeeze(), lambda a: a[:, 0]),
    "expand": (lambda a: a[:, :1].expand(5, -1, 2), lambda a: np.broadcast_to(a[:, :1], (5, ROWS, 2))),
    "transpose of all axes": (lambda a: a.transpose(), lambda a: a.T),
    "a layer of softmax": (nn.Softmax(dim=1), softmax),
    "dropout that is off": (nn.Sequential(nn.Dropout(0.5), nn.Dropout2d(0.5)), lambda a: a),
    "the type by its short name": (lambda a: (a > 0).float(), lambda a: (a > 0).astype("float32")),
}


@pytest.mark.parametrize("name", WORKING)
def test_what_works_gives_each_tasks_own(name):
    operation, of_one = WORKING[name]
    with stacking():
        found = operation(Stacked(jt.array(SCORES)))
    np.testing.assert_allclose(found.value.numpy(), [of_one(rows) for rows in SCORES], rtol=1e-6)


def test_one_hot():
    with stacking():
        found = nn.one_hot(Stacked(jt.array(LABELS)), COLUMNS)
    np.testing.assert_array_equal(found.value.numpy(), np.eye(COLUMNS)[LABELS])


def assign(array):
    array[0] = 1.0


NAMED = {
    "concat": lambda a: jt.concat([a, a], dim=1),
    "stack": lambda a: jt.stack([a, a]),
    "where": lambda a: jt.where(a > 0, a, a),
    "ternary": lambda a: jt.ternary(a > 0, a, a),
    "sort": lambda a: jt.sort(a, dim=1)[0],
    "prod": lambda a: jt.prod(a, 1),
    "gather": lambda a: a.gather(1, a),
    "item": lambda a: a.sum().item(),
    "normalize": lambda a: jt.normalize(a, dim=1),
    "AvgPool3d": nn.Sequential(nn.AvgPool3d(2)),
    "one_hot without num_classes": lambda a: nn.one_hot(a),
    "number of a value": float,
    "item assignment": assign,
}


@pytest.mark.parametrize("name", NAMED)
def test_what_does_not_work_is_named_in_one_sentence(name):
    objective = StackedObjective(lambda batch, ul_model, ll_model: NAMED[name](batch["a"]), [jt.array([[1.0, 2.0]])])
    with stacking(), pytest.raises(NotStackedError, match=rf"\b{name}\b") as error:
        objective({"a": Stacked(jt.array(SCORES))}, None, None)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 80
