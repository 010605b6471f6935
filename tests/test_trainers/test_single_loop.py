"""Single-loop methods in the trainer: resuming, loaders, callbacks, kernels, memory, and what is refused."""

import gc

from jboat import BilevelTrainer, NonFiniteError, registry
from jboat.callbacks import HypergradientCheck, LambdaCallback, LRSchedule, ModelCheckpoint, schedules
from jboat.sl_ol import SingleLoop
from jboat.sl_ol.directions import directions
from jboat.trainers.configuration import plain_settings
from jboat.trainers.persistence.checkpoint import CheckpointError
import jittor as jt
from jittor import nn
import numpy as np
from problems import Classifier, NoisyQuadratic, Point
import pytest

METHODS = ("SOBA", "MASOBA", "SABA", "SRBA", "MRBO", "SUSTAIN", "STOCBIO", "AMIGO", "F2SA")
FAST = {"STOCBIO": {"terms": 3}, "AMIGO": {"v_steps": 3}, "SRBA": {"period": 4}}
PROBLEM = NoisyQuadratic()


def make(method, *callbacks, problem=PROBLEM, lower=None, options=None, **kwargs):
    ul_model, ll_model = problem.models()
    ll_optimizer = (lower or (lambda p: jt.optim.SGD(p, 0.1, momentum=0.5)))(list(ll_model.parameters()))
    given = {
        "ll_optimizer": ll_optimizer,
        "ul_optimizer": jt.optim.Adam(list(ul_model.parameters()), 0.01),
        "sl_op": method,
        "lower_iters": 2,
        "solver_config": {method: options or FAST.get(method, {})},
        "callbacks": callbacks,
        "seed": 3,
        **kwargs,
    }
    return BilevelTrainer(ll_model, ul_model, problem.f, problem.F, **given)


def everything(trainer):
    """All numbers that a run ends with."""
    kept = {name: [v.numpy().tolist() for v in values] for name, values in trainer.auxiliary.items()}
    rows = [{n: v for n, v in row.items() if not n.startswith("time")} for row in trainer.history.rows]
    return {name: v.tolist() for name, v in trainer.values().items()}, kept, rows


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_ends_with_the_same_bits(method, tmp_path):
    through = make(method)
    through.fit(*PROBLEM.loaders(), max_steps=11)
    first = make(method)
    first.fit(*PROBLEM.loaders(), max_steps=6)  # within a pass of either loader
    first.save_checkpoint(tmp_path / "six.npz")
    second = make(method)
    second.fit(*PROBLEM.loaders(), max_steps=11, resume_from=tmp_path / "six.npz")
    assert second.state.step == 11
    assert everything(second) == everything(through)


def test_a_saba_run_resumed_in_its_first_pass_has_the_memory_it_had(tmp_path):
    through = make("SABA")
    through.fit(*PROBLEM.loaders(), max_steps=7)
    first = make("SABA", ModelCheckpoint(tmp_path, save_last=True, every_n_steps=2))
    first.fit(*PROBLEM.loaders(), max_steps=2)
    assert {"lower.0", "lower.1", "lower.sum", "upper.0", "upper.1", "upper.sum", "v"} == set(first.auxiliary)
    second = make("SABA", ModelCheckpoint(tmp_path, save_last=True, every_n_steps=100))
    second.fit(*PROBLEM.loaders(), max_steps=7, resume_from="last")
    assert everything(second) == everything(through)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda kept: kept.pop("v"), "auxiliary has"),
        (lambda kept: kept.update({"lower.x": kept["lower.0"]}), "auxiliary has"),
        (lambda kept: kept.update({"lower.1": kept["upper.0"]}), "must be a list with one array"),
        (lambda kept: kept.update({"lower.0": [v.reshape(-1, 1) for v in kept["lower.0"]]}), "has shape"),
    ],
)
def test_a_checkpoint_with_another_memory_is_refused(change, message, tmp_path):
    first = make("SABA")
    first.fit(*PROBLEM.loaders(), max_steps=2)
    change(first.current_run.auxiliary)
    first.save_checkpoint(tmp_path / "odd.npz")
    with pytest.raises(CheckpointError, match=message):
        make("SABA").load_checkpoint(tmp_path / "odd.npz")


class Samples(jt.dataset.Dataset):
    def __init__(self, shuffle):
        super().__init__()
        self.set_attrs(batch_size=1, total_len=4, shuffle=shuffle)

    def __getitem__(self, i):
        batch = PROBLEM.loaders()[0][i]
        return batch["A"], batch["c"]


def sampled(sampler):
    samples = Samples(shuffle=False)
    samples.set_attrs(sampler=sampler(samples))
    return samples


class Unplaced:
    def __len__(self):
        return 4

    def __iter__(self):
        return iter(PROBLEM.loaders()[0])


@pytest.mark.parametrize("method", ["SABA", "SRBA"])
@pytest.mark.parametrize(
    ("loader", "reason"),
    [
        (Samples(shuffle=True), "it shuffles"),
        (sampled(jt.dataset.RandomSampler), "its RandomSampler gives the order"),
        (Unplaced(), "it cannot be asked for one by its place"),
        (lambda: iter(PROBLEM.loaders()[0]), "it does not tell how many it has"),
    ],
    ids=["shuffled", "sampled", "no places", "no length"],
)
@pytest.mark.parametrize("level", [0, 1])
def test_batches_that_need_not_be_the_same_are_refused(method, loader, reason, level, loaded_kernels):
    loaders = list(PROBLEM.loaders())
    loaders[level] = loader
    name = ("ll_loader", "ul_loader")[level]
    with pytest.raises(ValueError, match=rf"{method} remembers .* {name} must give the same .*, but {reason}"):
        make(method).fit(*loaders, max_steps=1)
    assert loaded_kernels.new(pending=False) == []


@pytest.mark.parametrize("loader", [Samples(shuffle=False), sampled(jt.dataset.SequentialSampler)])
def test_a_dataset_that_does_not_shuffle_is_taken(loader):
    ul_model, ll_model = Point(np.ones(5)), Point(np.ones(8))

    def f(batch, ul_model, ll_model):
        y = ll_model()
        return 0.5 * (y.reshape(-1, 1) * batch["data"][0] * y.reshape(1, -1)).sum() - (y * batch["target"][0]).sum()

    trainer = BilevelTrainer(
        ll_model,
        ul_model,
        f,
        lambda batch, ul_model, ll_model: (ll_model() * ll_model()).sum() + (ul_model() * ul_model()).sum(),
        ll_optimizer=jt.optim.SGD(list(ll_model.parameters()), 0.2),
        ul_optimizer=jt.optim.SGD(list(ul_model.parameters()), 0.1),
        sl_op="SABA",
    )
    trainer.fit(loader, {}, max_steps=400)
    y = np.linalg.solve(PROBLEM.A, PROBLEM.c)
    np.testing.assert_allclose(ll_model.value.numpy(), y, rtol=1e-4, atol=1e-5)


BAD = [
    ({"sl_op": "SOBAA"}, ValueError, r"sl_op must be one of 'AMIGO', .*Did you mean 'SOBA'"),
    ({"fo_op": "VFO"}, ValueError, r"sl_op='SOBA' and fo_op='VFO' both replace the chains; give one of them"),
    ({"na_op": ["CG"]}, ValueError, r"sl_op='SOBA' replaces both chains; leave out na_op, got \['CG'\]"),
    ({"gm_op": ["DI", "NGD"]}, ValueError, r"sl_op='SOBA' replaces both chains; leave out gm_op, got \['DI', 'NGD'\]"),
    ({"accumulate": 2}, ValueError, r"accumulate must be 1 with sl_op='SOBA', got 2"),
    ({"warm_start": False}, ValueError, r"warm_start must be True with sl_op='SOBA'"),
    ({"lower_batches": "fresh"}, ValueError, r"lower_batches must be 'shared' with sl_op='SOBA'"),
    (
        {"solver_config": {"SOBA": {"v_lr": -1.0}}},
        ValueError,
        r"'v_lr'\] must be at least 0 and finite, got -1",
    ),
    ({"solver_config": {"SOBA": {"v_lr": "a"}}}, TypeError, r"'SOBA'\]\['v_lr'\] must be a number, got 'a'"),
    ({"solver_config": {"SOBA": {"lr": 1.0}}}, ValueError, r"solver_config\['SOBA'\] has no key 'lr'; it has v_lr"),
    ({"solver_config": {"MASOBA": {"theta": 0.0}}}, ValueError, r"'theta'\] must be positive and at most 1, got 0"),
    ({"solver_config": {"SRBA": {"period": 2.5}}}, ValueError, r"'period'\] must be an integer >= 0, got 2.5"),
    ({"solver_config": {"STOCBIO": {"terms": 0}}}, ValueError, r"'terms'\] must be an integer >= 1, got 0"),
    ({"solver_config": {"AMIGO": {"v_steps": True}}}, ValueError, r"'v_steps'\] must be an integer >= 1, got True"),
    ({"solver_config": {"MRBO": {"eta": 1.5}}}, ValueError, r"'eta'\] must be from 0 to 1, got 1.5"),
    ({"solver_config": {"SUSTAIN": {"eta_x": -1}}}, ValueError, r"'eta_x'\] must be from 0 to 1, got -1"),
    ({"solver_config": {"F2SA": {"lambda_max": 1.0}}}, ValueError, r"'lambda_max'\] must be at least lambda_init"),
]


@pytest.mark.parametrize(("changes", "error", "message"), BAD, ids=lambda v: str(v)[:50])
def test_what_is_refused(changes, error, message, loaded_kernels):
    with pytest.raises(error, match=message):
        make(changes.get("sl_op", "SOBA"), **{name: value for name, value in changes.items() if name != "sl_op"})
    assert loaded_kernels.new(pending=False) == []


@pytest.mark.parametrize(("changes", "error", "message"), BAD[:5], ids=lambda v: str(v)[:50])
def test_configurations_say_the_same(changes, error, message):
    found = plain_settings.errors({"sl_op": "SOBA", **changes})
    assert len(found) == 1
    with pytest.raises(error, match=message):
        raise error(found[0])


def test_lists_of_tasks_are_refused():
    tasks = [PROBLEM.loaders()[0]]
    with pytest.raises(
        ValueError, match="a single-loop method takes single batches, but a loader gave a list of tasks"
    ):
        make("SOBA").fit(tasks, PROBLEM.loaders()[1], max_steps=1)


def test_a_run_that_diverges_names_the_step_and_the_method():
    trainer = make("SOBA", lower=lambda p: jt.optim.SGD(p, 1e12))
    with pytest.raises(NonFiniteError, match="SOBA") as failure:
        trainer.fit(*PROBLEM.loaders(), max_steps=50)
    assert failure.value.step == trainer.state.step + 1


def test_a_configuration_names_it():
    ul_model, ll_model = PROBLEM.models()
    trainer = BilevelTrainer.from_config(
        {"sl_op": "SRBA", "solver_config": {"SRBA": {"period": 3}}},
        **{"ll_model": ll_model, "ul_model": ul_model, "ll_objective": PROBLEM.f, "ul_objective": PROBLEM.F},
        ll_optimizer=jt.optim.SGD(list(ll_model.parameters()), 0.1),
        ul_optimizer=jt.optim.SGD(list(ul_model.parameters()), 0.1),
    )
    assert (trainer.sl_op, trainer.fo_op) == ("SRBA", None)
    assert trainer.configuration()["sl_op"] == "SRBA"
    assert "na_op" not in trainer.configuration()
    assert trainer.current_run.method.name == "SRBA"


@pytest.mark.parametrize("method", METHODS)
def test_the_direction_is_the_derivative_of_its_value(method):
    trainer = make(method, HypergradientCheck(every_n_steps=1, directions=2))
    trainer.fit(*PROBLEM.loaders(), max_steps=6)  # SRBA takes all batches in two of them
    assert [row["hypergradient_verdict"] for row in trainer.history.rows] == [1.0] * 6


def test_directions_of_a_model_with_layers():
    """Beside differences of its gradients in float64."""
    problem, rate, size = Classifier(hidden=4), 0.3, 1e-5
    rng = np.random.default_rng(1)
    v = [rng.normal(size=shape).astype("float32") for shape in problem.shapes]
    y = [p.astype("float32").astype(float) for p in problem.start]

    def by_y(parameters, raw_weights):
        weights = 1.0 / (1.0 + np.exp(-raw_weights))
        return problem._loss_and_gradient(parameters, problem.train, weights)[1]

    def slope(ends):
        return [(a - b) / (2 * size) for a, b in zip(*ends, strict=True)]

    x = problem.weights.astype(float)
    product = slope([by_y([p + sign * size * d for p, d in zip(y, v, strict=True)], x) for sign in (1, -1)])
    mixed = []
    for e in size * np.eye(len(x)):
        mixed.append(sum((g * d).sum() for g, d in zip(slope([by_y(y, x + e), by_y(y, x - e)]), v, strict=True)))
    upper = problem._loss_and_gradient(y, problem.val, np.ones(problem.SAMPLES))[1]

    trainer = make("SOBA", problem=problem, lower=lambda p: jt.optim.SGD(p, rate))
    trainer.current_run.auxiliary = {"v": [jt.array(array) for array in v]}
    result = trainer.hypergradient(*problem.batches())
    np.testing.assert_allclose(result.gradients[0].numpy(), -np.array(mixed), rtol=1e-4, atol=1e-6)
    places = zip(result.auxiliary["v"], result.ll_parameters, v, y, product, upper, by_y(y, x), strict=True)
    for v_new, y_new, own, p, hessian_v, upper_by_y, gradient in places:
        np.testing.assert_allclose(v_new.numpy(), own - rate * (hessian_v - upper_by_y), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(y_new.numpy(), p - rate * gradient, rtol=1e-5, atol=1e-6)


def test_every_batch_that_is_drawn_is_another():
    seen = {"lower": [], "upper": []}

    class Watched(NoisyQuadratic):
        def f(self, batch, ul_model, ll_model):
            seen["lower"].append(int(batch["n"]))
            return super().f(batch, ul_model, ll_model)

        def F(self, batch, ul_model, ll_model):
            seen["upper"].append(int(batch["n"]))
            return super().F(batch, ul_model, ll_model)

    problem = Watched(lower=20, upper=5)
    loaders = [[{**batch, "n": n} for n, batch in enumerate(level)] for level in problem.loaders()]
    trainer = make("STOCBIO", problem=problem, lower_batches="fresh")  # which "shared" comes to, too
    trainer.fit(*loaders, max_steps=2, check_second_order=False)
    assert seen["lower"][1:] == [*range(12)]  # the first batch is looked at before the first step
    assert seen["upper"][1:] == [0, 1]


def test_a_schedule_of_both_rates_moves_v_too():
    steps = []
    decay = LRSchedule(schedules.exponential(0.1, 0.5), level="lower")
    trainer = make("SOBA", decay, LambdaCallback(on_step_end=lambda t, s: steps.append(s.metrics["ll_lr"])))
    before = make("SOBA", lower=lambda p: jt.optim.SGD(p, 0.1, momentum=0.5))
    trainer.fit(*PROBLEM.loaders(), max_steps=2)
    before.fit(*PROBLEM.loaders(), max_steps=2)
    assert steps[1] < steps[0]
    assert not np.allclose(trainer.auxiliary["v"][0].numpy(), before.auxiliary["v"][0].numpy())


def f_of_layers(batch, ul_model, ll_model):
    loss = nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"])
    return loss + (ul_model().exp() * sum((p * p).sum() for p in ll_model.parameters())).sum()


def F_of_layers(batch, ul_model, ll_model):
    return nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"])


def layers(method):
    ll_model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    ul_model = Point([-3.0, -4.0])
    return BilevelTrainer(
        ll_model,
        ul_model,
        f_of_layers,
        F_of_layers,
        ll_optimizer=jt.optim.SGD(list(ll_model.parameters()), 0.05),
        ul_optimizer=jt.optim.Adam(list(ul_model.parameters()), 0.01),
        sl_op=method,
        lower_iters=2,
        solver_config={method: FAST.get(method, {})},
    )


def of_layers(count, size, seed):
    rng = np.random.default_rng(seed)
    return [
        {"data": rng.normal(size=(size, 6)).astype("float32"), "target": rng.integers(0, 3, size).astype("int32")}
        for _ in range(count)
    ]


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_compiled_after_three_steps_and_nothing_piles_up(method, loaded_kernels):
    trainer = layers(method)
    loaders = of_layers(5, 8, 0), of_layers(4, 6, 1)
    trainer.fit(*loaders, max_steps=3)
    loaded_kernels.restart()
    trainer.fit(*loaders, max_steps=20)
    assert loaded_kernels.new() == []
    gc.collect()
    jt.gc()
    live = jt.liveness_info()["lived_vars"]
    trainer.fit(*loaders, max_steps=60)
    gc.collect()
    jt.gc()
    assert jt.liveness_info()["lived_vars"] <= live


def test_two_thousand_steps_leave_no_more_behind_than_two_hundred():
    trainer = make("SABA")
    live = []
    for steps in (200, 2000):
        trainer.fit(*PROBLEM.loaders(), max_steps=steps, check_second_order=False)
        gc.collect()
        jt.gc()
        live.append(jt.liveness_info()["lived_vars"])
    assert live[1] <= live[0]


def test_a_method_of_the_users_own(own_registry, tmp_path):
    @registry.register_operator("sl", cost="that of SOBA")
    class SignedSOBA(SingleLoop):
        """SOBA with the signs of the direction of x."""

        def estimates(self, lower, upper, point, batches, current_iter, kept):
            found = directions(lower, upper)
            return found._replace(x=[(d > 0.0).float32() * 2.0 - 1.0 for d in found.x]), {"seen": lower.by_y}

    through, first, second = (make("SignedSOBA", solver_config={}) for _ in range(3))
    through.fit(*PROBLEM.loaders(), max_steps=6)
    first.fit(*PROBLEM.loaders(), max_steps=3)
    first.save_checkpoint(tmp_path / "three.npz")
    second.fit(*PROBLEM.loaders(), max_steps=6, resume_from=tmp_path / "three.npz")
    assert everything(second) == everything(through)
    assert set(through.auxiliary) == {"v", "seen"}
    gradient = through.hypergradient(*PROBLEM.full()).gradients[0].numpy()
    assert set(np.abs(gradient)) == {1.0}


@pytest.mark.parametrize("method", METHODS)
def test_a_summary_tells_the_method(method):
    assert method in str(make(method).summary())


def test_all_are_registered():
    assert sorted(registry.operators("sl")) == sorted(METHODS)
