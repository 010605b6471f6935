"""Evaluation on tasks: what gradient descent on each support batch reaches, in numpy, and how sure the mean is."""

from jboat import BilevelTrainer
from jboat.callbacks import EarlyStopping
import jittor as jt
import numpy as np
from problems import Point
import pytest

RATE, STEPS = 0.3, 4


def loss(batch, ul_model, ll_model):
    gap = ll_model() - batch["centre"]
    return 0.5 * (gap * gap).sum()


def make(*callbacks, start=(1.0, -2.0), **arguments):
    x, y = Point(start), Point(start if "IAD" in arguments.get("na_op", ()) else (0.5, 0.25))
    return BilevelTrainer(
        y,
        x,
        loss,
        loss,
        ll_optimizer=jt.optim.SGD(y.parameters(), RATE),
        ul_optimizer=jt.optim.SGD(x.parameters(), 0.1),
        callbacks=callbacks,
        **{"lower_iters": STEPS, **arguments},
    )


def tasks_of(number, seed=0):
    rng = np.random.default_rng(seed)
    halves = rng.normal(size=(number, 2, 2)).astype("float32")
    return [({"centre": support}, {"centre": query}) for support, query in halves], halves.astype("float64")


def descended(start, centre, pull=0.0):
    y = start = np.asarray(start, np.float64)
    for _ in range(STEPS):
        y = y - RATE * (y - centre + pull * (y - start))
    return y


def expected(halves, start, pull=0.0):
    gaps = [descended(start, support, pull) - query for support, query in halves]
    values = np.array([0.5 * gap @ gap for gap in gaps])
    return values.mean(), 1.96 * values.std(ddof=1) / np.sqrt(len(values))


@pytest.mark.parametrize(
    ("arguments", "pull"),
    [
        ({"na_op": ["IAD"]}, 0.0),
        ({"na_op": ["FOA", "IAD"]}, 0.0),
        ({"na_op": ["IAD", "CG"], "solver_config": {"IAD": {"proximal": 0.5}}}, 0.5),
        ({}, 0.0),
        ({"lower_batches": "fresh"}, 0.0),
        ({"na_op": ["PTT", "RAD"]}, 0.0),
        ({"gm_op": ["GDA", "NGD"]}, 0.0),
    ],
)
def test_each_task_is_adapted_to_from_the_present_start(arguments, pull):
    trainer = make(**arguments)
    start = trainer.ul_var[0].numpy() if "IAD" in trainer.na_op else trainer.ll_var[0].numpy()
    tasks, halves = tasks_of(5)
    before = trainer.values()
    numbers = trainer.evaluate([tasks[:2], tasks[2:]])
    mean, width = expected(halves, start, pull)
    assert numbers == {"ul_loss": pytest.approx(mean, rel=1e-5), "ul_loss_ci95": pytest.approx(width, rel=1e-5)}
    np.testing.assert_equal(trainer.values(), before)
    assert trainer.state.step == 0


def test_a_learned_start_is_where_tasks_start():
    trainer = make(gm_op=["DI", "NGD"], solver_config={"DI": {"lr": 0.2}})
    trainer.fit({"centre": np.ones(2, "float32")}, {"centre": np.zeros(2, "float32")}, max_steps=3)
    tasks, halves = tasks_of(3)
    learned = trainer.initialization[0].numpy()
    assert not np.allclose(learned, trainer.ll_var[0].numpy())
    assert trainer.evaluate([tasks])["ul_loss"] == pytest.approx(expected(halves, learned)[0], rel=1e-5)


def test_pairs_of_arrays_and_functions_and_one_task_alone():
    trainer = make(na_op=["IAD"])

    def gap_to(batch, ul_model, ll_model):
        return (ll_model() - batch["data"]).abs().sum()

    trainer.metrics["gap"] = gap_to

    class Arrays(BilevelTrainer):
        pass

    support, query = np.ones(2, "float32"), np.zeros(2, "float32")

    def f(batch, ul_model, ll_model):
        gap = ll_model() - batch["data"]
        return 0.5 * (gap * gap).sum()

    x, y = Point([1.0, -2.0]), Point([1.0, -2.0])
    trainer = Arrays(
        y, x, f, f, ll_optimizer=jt.optim.SGD(y.parameters(), RATE), ul_optimizer=jt.optim.SGD(x.parameters(), 0.1),
        na_op=["IAD"], lower_iters=STEPS, metrics={"gap": gap_to},
    )  # fmt: skip
    task = ((support, np.zeros(1, "int32")), (query, np.zeros(1, "int32")))
    numbers = trainer.evaluate(lambda: iter([[task]]))
    end = descended([1.0, -2.0], support)
    assert numbers == {
        "ul_loss": pytest.approx(0.5 * end @ end, rel=1e-5),
        "gap": pytest.approx(np.abs(end).sum(), rel=1e-5),
    }


def test_val_loader_takes_tasks_and_the_mean_can_be_monitored():
    tasks, halves = tasks_of(6)
    trainer = make(EarlyStopping("val_ul_loss", patience=50), na_op=["IAD"])
    supports, queries = ([[task[i] for task in tasks]] for i in (0, 1))
    history = trainer.fit(supports, queries, max_steps=3, val_loader=[tasks], val_every=1)
    assert len(history["val_ul_loss"]) == len(history["val_ul_loss_ci95"]) == 3
    mean, width = expected(halves, trainer.ul_var[0].numpy())
    assert history["val_ul_loss"][-1] == pytest.approx(mean, rel=1e-5)
    assert history["val_ul_loss_ci95"][-1] == pytest.approx(width, rel=1e-5)
    # what is evaluated is what the next step starts from: F there is the mean over the same tasks
    assert history["ul_loss"][2] == pytest.approx(history["val_ul_loss"][1], rel=1e-5)


def test_resuming_keeps_its_place_among_tasks(tmp_path):
    tasks, _ = tasks_of(4)
    supports, queries = ([[task[i] for task in tasks]] for i in (0, 1))

    def run(trainer, steps, **arguments):
        trainer.fit(supports, queries, max_steps=steps, val_loader=[tasks], val_every=1, **arguments)
        return trainer

    whole = run(make(na_op=["IAD"], seed=1), 4)
    run(make(na_op=["IAD"], seed=1), 2).save_checkpoint(tmp_path / "c.npz")
    rest = run(make(na_op=["IAD"], seed=1), 4, resume_from=tmp_path / "c.npz")
    assert rest.history["val_ul_loss"] == whole.history["val_ul_loss"]


def test_what_are_no_tasks_is_named():
    tasks, _ = tasks_of(2)
    trainer = make(na_op=["IAD"])
    with pytest.raises(ValueError, match=r"list of single batches; .* \(support, query\) pair"):
        trainer.evaluate([[tasks[0][0], tasks[0][1]]])
    with pytest.raises(ValueError, match="batches and lists of tasks; evaluate takes one kind"):
        trainer.evaluate([tasks, tasks[0][0]])
    with pytest.raises(ValueError, match="pairs are for evaluations; to train, ll_loader gives lists of support"):
        trainer.fit([tasks], [tasks], max_steps=1)
    with pytest.raises(ValueError, match="VFO has no lower loop, in which an evaluation could adapt"):
        make(fo_op="VFO").evaluate([tasks])
