"""Tasks computed together give what each gives alone: by numpy in float64, and beside one after another."""

import contextlib
import logging
from types import SimpleNamespace

from jboat import BilevelTrainer
from jboat.backend import free_memory, ranks
from jboat.backend.stacked.array import Stacked
from jboat.backend.stacked.layers import cross_entropy_loss
from jboat.callbacks import LambdaCallback
from jboat.outer_step import OuterStep, mean
from jboat.trainers.errors import DeviceMemoryError
from jboat.trainers.outer_step.method import Events
from jboat.trainers.outer_step.task_chunks import TaskChunks
import jittor as jt
from jittor import nn
import numpy as np
from problems import Classifier, Point
import pytest
from small_trainers import make

RATE, STEPS = 0.3, 4


def gap_loss(batch, ul_model, ll_model):
    gap = ll_model() - batch["centre"]
    return 0.5 * (gap * gap).sum()


def centres(number):
    halves = np.random.default_rng(3).normal(size=(number, 2, 2)).astype("float32")
    return [{"centre": h[0]} for h in halves], [{"centre": h[1]} for h in halves], halves.astype("float64")


@pytest.mark.parametrize(("chain", "slope"), [(["IAD"], (1 - RATE) ** STEPS), (["FOA", "IAD"], 1.0)])
@pytest.mark.parametrize("together", [5, 2, "auto"])
def test_initialisation_of_quadratic_tasks(chain, slope, together):
    support, query, halves = centres(5)
    start = np.array([1.0, -2.0])
    trainer = BilevelTrainer(
        y := Point(start),
        x := Point(start),
        gap_loss,
        gap_loss,
        ll_optimizer=jt.optim.SGD(y.parameters(), RATE),
        ul_optimizer=jt.optim.SGD(x.parameters(), 0.1),
        na_op=chain,
        lower_iters=STEPS,
        tasks_together=together,
    )
    ends = [s + (1 - RATE) ** STEPS * (start - s) for s, _ in halves]
    gaps = np.array([end - q for end, (_, q) in zip(ends, halves, strict=True)])
    before = [s + (1 - RATE) ** (STEPS - 1) * (start - s) for s, _ in halves]
    found = trainer.hypergradient(support, query)
    np.testing.assert_allclose(found.gradients[0].numpy(), slope * gaps.mean(0), rtol=1e-6)
    assert found.upper_loss == pytest.approx(0.5 * (gaps**2).sum(1).mean(), rel=1e-6)
    lower = [0.5 * ((b - s) ** 2).sum() for b, (s, _) in zip(before, halves, strict=True)]
    assert found.lower_loss == pytest.approx(np.mean(lower), rel=1e-6)
    np.testing.assert_allclose(found.ll_parameters[0].numpy(), ends[-1], rtol=1e-6)
    assert together_at_work(trainer)


def together_at_work(trainer):
    """Whether tasks were computed together, and nothing was said against it."""
    chunks = trainer.current_run.chunks
    return chunks.computed > 0 and not chunks.refused


def descent(params, grads, state, step):
    return [p - RATE * g for p, g in zip(params, grads, strict=True)], None


def two_tasks(hidden=5):
    """Two classifiers with the same weights and starts on other data, and their batches."""
    problems = [Classifier(hidden=hidden), Classifier(hidden=hidden)]
    other = Classifier(seed=1)
    problems[1].train, problems[1].val = other.train, other.val
    halves = list(zip(*(p.batches() for p in problems), strict=True))
    return problems, [*halves[0]], [*halves[1]]


def test_rad_through_a_perceptron_is_the_mean_of_finite_differences():
    problems, lower, upper = two_tasks()
    trainer = make(problem=problems[0], ll_lr=RATE, lower_iters=3, tasks_together=2)
    found = trainer.hypergradient(lower, upper)
    exact = np.mean([p.unrolled_gradient(3, descent) for p in problems], axis=0)
    np.testing.assert_allclose(found.gradients[0].numpy(), exact, rtol=0, atol=1e-6 * abs(exact).max())
    assert together_at_work(trainer)


class Images(nn.Module):
    """Convolutions, a norm of each sample, pooling and a head."""

    def __init__(self):
        self.features = nn.Sequential(nn.Conv(1, 4, 3, stride=2, padding=1), nn.GroupNorm(2, 4), nn.ReLU())
        self.last, self.pool, self.head = nn.Conv(4, 4, 3, padding=1), nn.Pool(2, op="mean"), nn.Linear(16, 3)

    def execute(self, x):
        x = self.pool(self.last(self.features(x)))
        return self.head(x.reshape(x.shape[0], -1))


def scores_loss(batch, ul_model, ll_model):
    decay = sum((p * p).sum() for p in ll_model.parameters())
    return nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"]) + 0.01 * decay


def image_tasks(number, samples=6):
    rng = np.random.default_rng(7)
    return [
        {
            "data": rng.normal(size=(samples, 1, 8, 8)).astype("float32"),
            "target": rng.integers(0, 3, samples).astype("int32"),
        }
        for _ in range(number)
    ]


def image_trainer(chain, together, lower_optimizer=lambda p: jt.optim.SGD(p, 0.1), **arguments):
    jt.set_global_seed(5)
    ll_model, ul_model = Images(), Images()
    return make(
        ll_model=ll_model,
        ul_model=ul_model,
        ll_objective=scores_loss,
        ul_objective=scores_loss,
        ll_optimizer=lower_optimizer,
        na_op=chain,
        lower_iters=3,
        tasks_together=together,
        **arguments,
    )


def test_images_give_what_they_give_one_after_another():
    lower, upper = image_tasks(5), image_tasks(5, samples=4)
    ends = {}
    for together in (1, 3):  # chunks of 3 and 2
        trainer = image_trainer(["IAD"], together, momentum, ll_optimizer_state="carry")
        found = trainer.hypergradient(lower, upper)
        rows = trainer.fit([lower], [upper], max_steps=2).rows
        state = [s.numpy() for s in trainer.current_run.rule.load().flat()]
        losses = np.array([[row["ul_loss"], row["ll_loss"]] for row in rows])
        ends[together] = [
            flat(g.numpy() for g in found.gradients),
            flat(trainer.values().values()),
            flat(state),
            losses,
        ]
    assert together_at_work(trainer)
    for found, wanted in zip(ends[3], ends[1], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6 * abs(wanted).max())


def momentum(parameters):
    return jt.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=0.01)


def flat(arrays):
    return np.concatenate([a.ravel() for a in arrays])


CHAINS = {
    "adam": {"ll_optimizer": lambda p: jt.optim.Adam(p, 0.05)},
    "GDA, DI": {"gm_op": ["GDA", "DI", "NGD"], "solver_config": {"GDA": {"alpha_init": 0.3}}},
    "RGT": {"na_op": ["RGT", "RAD"], "solver_config": {"RGT": {"truncate_iter": 1}}},
    "remat, fresh": {"solver_config": {"RAD": {"remat_every": 1}}, "lower_batches": "fresh"},
}


@pytest.mark.parametrize("name", CHAINS)
def test_other_chains_give_what_they_give_one_after_another(name):
    problems, lower, upper = two_tasks()
    fresh = CHAINS[name].get("lower_batches") == "fresh"
    found = {}
    for together in (1, "auto"):
        trainer = make(problem=problems[0], lower_iters=3, tasks_together=together, warm_start=False, **CHAINS[name])
        trainer.fit([lower, upper] if fresh else [lower], [upper], max_steps=2)
        ends = [*trainer.values().values(), *(v.numpy() for v in trainer.initialization)]
        found[together] = flat(ends)
    assert together_at_work(trainer)
    np.testing.assert_allclose(found["auto"], found[1], rtol=0, atol=1e-6 * abs(found[1]).max())


NORM = nn.LayerNorm(3, elementwise_affine=False)


def many_operations(batch, ul_model, ll_model):
    scores = ll_model(batch["data"])
    weights = ul_model().sigmoid()[batch["target"]]
    clipped = jt.safe_clip(ll_model.parameters()[0], -0.2, 0.2).sum()
    loss = nn.mse_loss(nn.softmax(NORM(scores), dim=-1), batch["data"][:, :3]) + 0.1 * clipped
    return loss + (weights * scores[:, 0]).sum() / 24.0


def test_operations_of_an_objective_give_what_they_give_for_one_task():
    problems, lower, upper = two_tasks()
    found = {}
    for together in (1, 2):
        trainer = make(problem=problems[0], ll_objective=many_operations, ll_lr=RATE, tasks_together=together)
        result = trainer.hypergradient(lower, upper)
        found[together] = result.gradients[0].numpy(), np.array([result.lower_loss, result.upper_loss])
    assert together_at_work(trainer)
    for own, wanted in zip(found[2], found[1], strict=True):
        np.testing.assert_allclose(own, wanted, rtol=0, atol=1e-6 * abs(wanted).max())


def mixing(batch, ul_model, ll_model):
    """A sum over all parameters that goes around what is known of tasks."""
    hidden = jt.array(np.float32([0.1]))
    return (
        Classifier.f(batch, ul_model, ll_model)
        + hidden * jt.concat([p.reshape(-1) for p in ll_model.parameters()]).sum()
    )


def drawing(batch, ul_model, ll_model):
    return Classifier.f({**batch, "data": batch["data"] + 0.0 * jt.randn((1,))}, ul_model, ll_model)


def branching(batch, ul_model, ll_model):
    loss = Classifier.f(batch, ul_model, ll_model)
    return loss * 2.0 if loss > 0.5 else loss


def detouring(batch, ul_model, ll_model):
    return Classifier.f(batch, ul_model, ll_model) + 0.1 * float(ll_model.parameters()[0].numpy().sum())


@pytest.mark.parametrize("objective", [mixing, drawing, branching, detouring])
def test_what_is_not_known_of_tasks_is_computed_one_after_another(objective, caplog):
    problems, lower, upper = two_tasks()
    gradients = {}
    for together in (1, 2):
        trainer = make(problem=problems[0], ll_objective=objective, tasks_together=together, seed=3)
        with caplog.at_level(logging.WARNING, logger="jboat"):
            gradients[together] = [trainer.hypergradient(lower, upper).gradients[0].numpy() for _ in range(2)][-1]
    np.testing.assert_array_equal(gradients[2], gradients[1])
    told = [r for r in caplog.records if "one after another" in r.message]
    assert len(told) == 1
    assert not together_at_work(trainer)


def test_what_an_objective_logs_is_the_mean_over_tasks():
    problems, lower, upper = two_tasks()
    rows = {}

    class Logging(BilevelTrainer):
        def ll_objective(self, batch, ul_model, ll_model):
            loss = Classifier.f(batch, ul_model, ll_model)
            self.log("loss_of_lower", loss)
            return loss

    for together in (1, 2):
        own = {"problem": problems[0], "trainer_class": Logging, "ll_objective": None}
        trainer = make(ll_lr=RATE, tasks_together=together, **own)
        rows[together] = trainer.fit([[*lower, lower[0]]], [[*upper, upper[0]]], max_steps=1)[-1]["loss_of_lower"]
        assert together == 1 or together_at_work(trainer)
    assert rows[2] == pytest.approx(rows[1], rel=1e-6)


def test_tasks_of_other_shapes_are_computed_one_after_another(caplog):
    lower, upper = image_tasks(4), image_tasks(4)
    lower[3] = image_tasks(1, samples=5)[0]
    found = {}
    for together in (1, 2):
        trainer = image_trainer(["FOA", "IAD"], together)
        found[together] = flat(g.numpy() for g in trainer.hypergradient(lower, upper).gradients)
    assert trainer.current_run.chunks.computed == 1
    assert "whose 'data' has another shape" in caplog.text
    np.testing.assert_allclose(found[2], found[1], rtol=0, atol=1e-6 * abs(found[1]).max())


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"na_op": ["CG"]}, "CG"),
        ({"na_op": ["PTT", "RAD"]}, "PTT"),
        ({"fo_op": "VFO"}, "VFO"),
        ({"ll_projection": lambda y: y}, "ll_projection"),
        ({"ll_optimizer": lambda p: jt.optim.Adan(p, 0.1)}, "Adan"),
    ],
)
def test_what_takes_one_task_at_a_time_is_refused_by_name(arguments, name):
    with pytest.raises(ValueError, match=rf"tasks_together=4: .*{name}"):
        make(problem=Classifier(), tasks_together=4, **arguments)
    make(problem=Classifier(), tasks_together="auto", **arguments)


def test_running_statistics_are_refused():
    ll_model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    with pytest.raises(ValueError, match="running statistics"):
        make(problem=Classifier(), ll_model=ll_model, tasks_together=4)


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (1.5, TypeError), ("all", ValueError), (True, TypeError)]
)
def test_bad_arguments(value, error):
    with pytest.raises(error, match="tasks_together"):
        make(tasks_together=value)


def test_hooks_of_lower_steps_see_every_task():
    problems, lower, upper = two_tasks()
    seen = []
    watch = LambdaCallback(on_lower_step_end=lambda trainer, state: seen.append(state.inner_step))
    trainer = make(watch, problem=problems[0], tasks_together=2)
    trainer.fit([lower], [upper], max_steps=1)
    assert seen == [1, 2, 1, 2]
    assert trainer.current_run.chunks.computed == 0


def test_a_resumed_run_ends_the_same_to_the_bit_and_evaluates_the_same(tmp_path):
    _, lower, upper = two_tasks()
    loaders = [lower], [upper]

    def trainer(together=2):
        return make(problem=Classifier(hidden=5), ll_lr=RATE, tasks_together=together, seed=1)

    whole, first, second = trainer(), trainer(), trainer()
    whole.fit(*loaders, max_steps=4)
    first.fit(*loaders, max_steps=2)
    first.save_checkpoint(tmp_path / "two.npz")
    second.fit(*loaders, max_steps=4, resume_from=tmp_path / "two.npz")
    for name, value in whole.values().items():
        np.testing.assert_array_equal(second.values()[name], value)
    assert together_at_work(second)
    pairs = [[*zip(lower, upper, strict=True)]]
    one_by_one = trainer(together=1)
    one_by_one.set_values(whole.values())
    assert whole.evaluate(pairs) == one_by_one.evaluate(pairs)


def test_memory_of_a_step_that_is_built_again_counts(monkeypatch):
    """Three layers of 32 images give 8 KiB each at least; five iterates of some 240 numbers are less than 12 KiB."""
    lower, upper = image_tasks(4, samples=32), image_tasks(4, samples=4)
    trainer = image_trainer(["FOA", "IAD"], "auto")
    monkeypatch.setattr(free_memory, "free", lambda: 2 * 4 * 12 * 1024)
    trainer.hypergradient(lower, upper)
    assert 1 <= trainer.current_run.chunks._size <= 2
    assert not trainer.current_run.chunks.refused


def test_chunks_are_halved_where_memory_runs_out(monkeypatch):
    _, lower, upper = two_tasks()
    alone = make(problem=Classifier(hidden=5), ll_lr=RATE, lower_iters=3).hypergradient(lower * 2, upper * 2)
    trainer = make(problem=Classifier(hidden=5), ll_lr=RATE, lower_iters=3, tasks_together=4)
    together, asked = TaskChunks._together, []

    def scarce(self, pair, tasks, *others):
        asked.append(tasks)
        if tasks > 2:
            raise DeviceMemoryError("no room", operator="RAD", step=1, original="")
        return together(self, pair, tasks, *others)

    monkeypatch.setattr(TaskChunks, "_together", scarce)
    found = trainer.hypergradient(lower * 2, upper * 2)
    assert asked == [2, 4, 2, 2]
    wanted = alone.gradients[0].numpy()
    np.testing.assert_allclose(found.gradients[0].numpy(), wanted, rtol=0, atol=1e-6 * abs(wanted).max())


def test_memory_that_runs_out_on_trial_is_told(monkeypatch):
    _, lower, upper = two_tasks()
    trainer = make(problem=Classifier(hidden=5), lower_iters=3, tasks_together=2)

    def none_left(*arguments):
        raise DeviceMemoryError("no room", operator="RAD", step=1, original="")

    monkeypatch.setattr(TaskChunks, "_together", none_left)
    with pytest.raises(DeviceMemoryError, match="no room"):
        trainer.hypergradient(lower, upper)


def test_labels_are_counted_once(monkeypatch):
    labels, counted = Stacked(jt.array(np.int32([[0, 1], [2, 0]]))), []
    in_range = Stacked.in_range
    monkeypatch.setattr(Stacked, "in_range", lambda self, n: counted.append(self) or in_range(self, n))
    for _ in range(2):
        scores = Stacked(jt.array(np.zeros((2, 2, 3), np.float32)))
        loss = cross_entropy_loss(nn.cross_entropy_loss, scores, labels)
        np.testing.assert_allclose(loss.value.numpy().ravel(), np.log(3), rtol=1e-6)
    assert counted[0] is counted[1] is labels


def test_an_objective_that_takes_another_path_later_goes_on_alone(caplog):
    _, lower, upper = two_tasks()
    late = SimpleNamespace(now=False)

    def objective(batch, ul_model, ll_model):
        loss = Classifier.f(batch, ul_model, ll_model)
        return loss + 0.0 * ll_model(batch["data"]).no_such_method() if late.now and stands_for_tasks(batch) else loss

    trainer = make(problem=Classifier(hidden=5), ll_objective=objective, ll_lr=RATE, tasks_together=2)
    before = trainer.hypergradient(lower, upper).gradients[0].numpy()
    late.now = True
    after = trainer.hypergradient(lower, upper).gradients[0].numpy()
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-6 * abs(before).max())
    assert "no_such_method" in caplog.text


def joining(batch, ul_model, ll_model):
    """Jittor's operations raise a RuntimeError for what is no Var."""
    return Classifier.f(batch, ul_model, ll_model) + 0.1 * jt.concat([ll_model(batch["data"])] * 2).mean()


@pytest.mark.parametrize("path", [joining, detouring])
def test_a_later_path_that_is_not_known_of_tasks_gives_what_it_gives_alone(path, caplog):
    problems, lower, upper = two_tasks()
    late = SimpleNamespace(now=False)

    def objective(*args):
        return (path if late.now else Classifier.f)(*args)

    found = {}
    for together in (1, 2):
        late.now = False
        trainer = make(problem=problems[0], ll_objective=objective, tasks_together=together, seed=3)
        trainer.hypergradient(lower, upper)
        late.now = True
        found[together] = trainer.hypergradient(lower, upper).gradients[0].numpy()
    np.testing.assert_array_equal(found[2], found[1])
    assert sum("one after another" in r.message for r in caplog.records) == 1


def stands_for_tasks(batch):
    return isinstance(batch["data"], Stacked)


def test_a_first_step_that_is_not_finite_is_no_comparison():
    _, lower, upper = two_tasks()
    trainer = make(problem=Classifier(hidden=5), tasks_together=2, ll_lr=RATE)
    broken = [{**batch, "data": batch["data"] * float("nan")} for batch in lower]
    with contextlib.suppress(ArithmeticError):
        trainer.hypergradient(broken, upper)
    assert not trainer.current_run.chunks._tried
    trainer.hypergradient(lower, upper)
    assert trainer.current_run.chunks._tried


def test_a_mean_of_chunks_weighs_values_and_keeps_what_is_left_out():
    def step(number, skip):
        value = jt.array([number])
        return OuterStep([value], number, number, skip=skip, value=lambda: value)

    found = mean([step(1.0, True), step(5.0, False)], [3, 1])
    assert found.value().item() == found.gradients[0].item() == found.upper_loss == 2.0
    assert found.skip


def test_a_run_goes_on_with_other_options_of_memory(tmp_path, caplog):
    _, lower, upper = two_tasks()

    def trainer(**arguments):
        return make(problem=Classifier(hidden=5), ll_lr=RATE, seed=1, **arguments)

    first = trainer(tasks_together=2)
    assert first.configuration()["tasks_together"] == 2
    first.fit([lower], [upper], max_steps=1)
    first.save_checkpoint(tmp_path / "one.npz")
    second = trainer(solver_config={"RAD": {"remat_every": 1}})
    with caplog.at_level(logging.INFO, logger="jboat"):
        second.fit([lower], [upper], max_steps=2, resume_from=tmp_path / "one.npz")
    assert second.state.step == 2
    assert second.solver_config["RAD"]["remat_every"] == 1
    assert caplog.text.count("other options of memory") == 1


@pytest.mark.parametrize("shared", [False, True])
def test_ranks_ask_each_other_for_iterates_only_where_they_share_batches(monkeypatch, shared):
    problem = Classifier(hidden=5)
    batches = [ranks.Shard(batch, [1.0]) if shared else batch for batch in problem.batches()]
    asked, gathered = [], ranks.gathered
    monkeypatch.setattr(ranks, "gathered", lambda numbers: asked.append(len(numbers)) or gathered(numbers))
    trainer = make(problem=problem, ll_lr=RATE, lower_iters=3, solver_config={"RAD": {"checkpoints": "auto"}})
    trainer.current_run.step([tuple(batches)], Events())
    assert asked.count(3) == int(shared)  # that of the seed is of one number
