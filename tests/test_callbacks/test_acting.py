"""Callbacks that act: stopping, clipping, guarding, schedules, timing, checking. One test a promise."""

from functools import partial

from jboat import StopReason
from jboat.callbacks import (
    Callback,
    DISchedule,
    EarlyStopping,
    GDASchedule,
    GradientClipping,
    HypergradientCheck,
    LambdaCallback,
    LRSchedule,
    ModelCheckpoint,
    NaNGuard,
    StepTimer,
    schedules,
)
import jittor as jt
import numpy as np
from problems import Quadratic
import pytest
import small_trainers

make = partial(small_trainers.make, lower_iters=3)


class Scripted(Callback):
    """Writes a metric from a list, one number a step."""

    def __init__(self, values):
        self.values = values

    def on_step_end(self, trainer, state):
        state.metrics["script"] = self.values[state.step - 1]


def stopped_at(values, **arguments):
    stopping = EarlyStopping("script", **arguments)
    trainer = make(Scripted(values), stopping)
    trainer.fit({}, {}, max_steps=len(values))
    return trainer.state.step, trainer.state.stop_reason, stopping


NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "arguments", "step"),
    [
        ([5, 4, 4, 4, 3], {"patience": 2}, 4),
        ([5, 4, 3.9, 3.8, 3.7], {"patience": 2, "min_delta": 0.5}, 4),
        ([1, 2, 2, 2, 9], {"mode": "max", "patience": 2}, 4),
        ([5, 4, 3, 2, 1], {"patience": 1, "threshold": 3}, 3),
        ([1, 2, 3, 4, 5], {"mode": "max", "patience": 9, "threshold": 4}, 4),
        ([5, 4, 50, 2, 1], {"patience": 9, "divergence_threshold": 40}, 3),
        ([5, NAN, 3, 2, 1], {"patience": 9}, 2),
        ([5, float("inf"), 3, 2, 1], {"patience": 9}, 2),
    ],
)
def test_early_stopping_stops(values, arguments, step):
    reached, reason, _ = stopped_at(values, **arguments)
    assert (reached, reason) == (step, StopReason.EARLY_STOPPING)


@pytest.mark.parametrize(
    ("values", "arguments"),
    [([5, 4, 4, 3, 3], {"patience": 2}), ([5, NAN, 3, 2, 1], {"patience": 9, "check_finite": False})],
)
def test_early_stopping_goes_on(values, arguments):
    assert stopped_at(values, **arguments)[:2] == (len(values), StopReason.MAX_STEPS)


def test_early_stopping_gives_back_the_best_parameters_of_both_levels():
    seen = {}

    def remember(trainer, state):
        seen[state.step] = trainer.values()

    stopping = EarlyStopping("script", patience=3, restore_best=True)
    trainer = make(Scripted([5, 3, 4, 4, 4, 4]), LambdaCallback(on_step_end=remember), stopping)
    trainer.fit({}, {}, max_steps=6)
    assert trainer.state.step == 5
    assert stopping.best_step == 2
    np.testing.assert_equal(trainer.values(), seen[2])


def test_early_stopping_starts_afresh_in_a_new_fit():
    stopping = EarlyStopping("script", patience=2)
    trainer = make(Scripted([1, 2, 3, 4, 5, 6, 7]), stopping)
    trainer.fit({}, {}, max_steps=5)
    assert trainer.state.step == 3
    trainer.fit({}, {}, max_steps=5)
    assert trainer.state.step == 6
    assert stopping.best == 4


@pytest.mark.parametrize(
    "callback", [EarlyStopping("nothing"), ModelCheckpoint("x", monitor="nothing", every_n_steps=1)]
)
def test_a_missing_metric_is_an_error_that_lists_those_there_are(callback, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"no metric 'nothing' at step 1; there are ll_loss, ul_loss"):
        make(callback).fit({}, {})


def test_a_metric_of_an_evaluation_needs_one():
    with pytest.raises(ValueError, match=r"no metric .val_ul_loss.*give fit\(\) a val_loader"):
        make(EarlyStopping("val_ul_loss")).fit({}, {})


def gradients_before_and_after(clipping, **kwargs):
    seen = {}

    def note(name):
        def hook(trainer, state, result):
            chosen = result.gradients if "DI" not in kwargs.get("gm_op", ()) else result.ll_init_gradient
            seen[name] = chosen[0].numpy().copy()

        return hook

    before = LambdaCallback("before", on_before_upper_step=note("before"))
    after = LambdaCallback("after", on_before_upper_step=note("after"))
    make(before, clipping, after, **kwargs).fit({}, {})
    return seen["before"], seen["after"]


@pytest.mark.parametrize(("level", "gm_op"), [("upper", ["NGD"]), ("lower", ["DI", "NGD"])])
def test_clipping_by_norm_and_by_value(level, gm_op):
    raw, clipped = gradients_before_and_after(GradientClipping(max_norm=0.5, level=level), gm_op=gm_op)
    assert np.linalg.norm(raw) > 0.5
    np.testing.assert_allclose(clipped, raw * 0.5 / np.linalg.norm(raw), rtol=1e-5)
    raw, clipped = gradients_before_and_after(GradientClipping(max_value=0.3, level=level), gm_op=gm_op)
    np.testing.assert_allclose(clipped, np.clip(raw, -0.3, 0.3), rtol=1e-6)
    assert np.abs(raw).max() > 0.3


def test_clipping_leaves_small_gradients_and_nan():
    raw, clipped = gradients_before_and_after(GradientClipping(max_norm=1e6, max_value=1e6))
    np.testing.assert_array_equal(raw, clipped)
    clipping = GradientClipping(max_norm=1.0, max_value=1.0)
    assert np.isnan(clipping._clipped([jt.array([NAN, 5.0])])[0].numpy()[0])


class Exploding(Quadratic):
    """F is NaN at some calls."""

    def __init__(self, calls):
        super().__init__()
        self.calls, self.count = calls, 0

    def F(self, batch, ul_model, ll_model):
        self.count += 1
        return super().F(batch, ul_model, ll_model) * (NAN if self.count in self.calls else 1.0)


def test_nan_guard_stops_in_good_order():
    trainer = make(NaNGuard(), problem=Exploding([1 + 2]))
    trainer.fit({}, {}, max_steps=5)
    assert trainer.state.stop_reason is StopReason.NON_FINITE
    assert trainer.state.step == 2
    assert np.isfinite(trainer.ul_var[0].numpy()).all()


def test_nan_guard_skips_and_counts(caplog):
    guard = NaNGuard("skip")
    trainer = make(guard, problem=Exploding([1 + 2, 1 + 4]))
    history = trainer.fit({}, {}, max_steps=5)
    plain = make(problem=Exploding([]))
    plain.fit({}, {}, max_steps=3)
    np.testing.assert_equal(trainer.values(), plain.values())
    assert guard.skipped == 2
    assert history["skipped_steps"] == [0, 1, 1, 2, 2]
    assert "RAD: the upper loss is nan at outer step 2: the step is left out" in caplog.text


@pytest.mark.parametrize("hook", ["on_hypergradient_end", "on_before_upper_step"])
def test_a_callback_may_leave_a_step_out(hook):
    def leave_out(trainer, state, result):
        result.skip = state.step == 1

    trainer = make(LambdaCallback(**{hook: leave_out}))
    trainer.fit({}, {}, max_steps=3)
    plain = make()
    plain.fit({}, {}, max_steps=2)
    np.testing.assert_equal(trainer.values(), plain.values())


def test_a_skipped_step_has_no_score(tmp_path):
    """NaN of a step that moved nothing neither stops the run nor is a checkpoint's score."""
    stopping = EarlyStopping("ul_loss", patience=2, check_finite=True)
    saver = ModelCheckpoint(tmp_path, monitor="ul_loss", every_n_steps=1, save_top_k=-1)
    trainer = make(NaNGuard("skip"), stopping, saver, problem=Exploding([1 + 2, 1 + 3, 1 + 4]))
    history = trainer.fit({}, {}, max_steps=6)
    assert trainer.state.stop_reason is StopReason.MAX_STEPS
    assert np.isnan(history["ul_loss"]).tolist() == [False, True, True, True, False, False]
    scores = {name: score for score, name in saver.state_dict()["saved"]}
    assert [scores[f"step-{step:08d}.npz"] is None for step in range(2, 5)] == [True] * 3


def test_variables_that_are_not_finite_are_not_saved(tmp_path, caplog):
    """The upper optimizer's own step makes x infinite, which only the next step's upper loss would tell."""
    trainer = make(ModelCheckpoint(tmp_path, every_n_steps=1), GradientClipping(max_value=1e3))
    trainer.fit({}, {}, max_steps=2)
    good = (tmp_path / "last.npz").read_bytes()
    trainer.ul_optimizer.lr = 1e38
    trainer.fit({}, {}, max_steps=1)
    assert not np.isfinite(trainer.ul_var[0].numpy()).all()
    assert (tmp_path / "last.npz").read_bytes() == good
    assert "the checkpoint of step 3 is not written: a variable is NaN or infinite" in caplog.text


def test_nan_guard_gives_up_after_too_many_in_a_row():
    trainer = make(NaNGuard("skip", max_skips=2), problem=Exploding(range(3, 100)))
    trainer.fit({}, {}, max_steps=50)
    assert trainer.state.step == 4
    assert trainer.state.stop_reason is StopReason.NON_FINITE


def test_schedules():
    assert [schedules.constant(3.0)(s) for s in (0, 9)] == [3.0, 3.0]
    assert [schedules.linear(1.0, 0.0, 4)(s) for s in (0, 1, 4, 9)] == [1.0, 0.75, 0.0, 0.0]
    assert [schedules.exponential(2.0, 0.5)(s) for s in (0, 1, 2)] == [2.0, 1.0, 0.5]
    assert [schedules.cosine(1.0, 0.0, 2)(s) for s in (0, 1, 2, 3)] == pytest.approx([1.0, 0.5, 0.0, 0.0])
    assert [schedules.piecewise([1, 2, 3], [5, 8])(s) for s in (0, 4, 5, 7, 8, 99)] == [1, 1, 2, 2, 3, 3]
    with pytest.raises(ValueError, match="one value more than boundaries, got 2 and 2"):
        schedules.piecewise([1, 2], [1, 2])
    with pytest.raises(ValueError, match="boundaries must rise"):
        schedules.piecewise([1, 2, 3], [5, 5])
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        schedules.linear(1, 2, 0)


def test_gda_schedule_is_in_force_and_in_the_metrics():
    problem = Quadratic()
    trainer = make(GDASchedule(schedules.linear(0.6, 0.2, 2)), gm_op=["GDA", "NGD"], problem=problem, ul_lr=0.0)
    history = trainer.fit({}, {}, max_steps=3)
    assert history["gda_alpha"] == pytest.approx([0.6, 0.4, 0.2])
    y = problem.y0
    for alpha in (0.6, 0.4, 0.2):
        y = problem.iterates(problem.x0, y, 3, 0.1, alpha * 0.99 ** np.arange(3))[-1]
    np.testing.assert_allclose(trainer.ll_var[0].numpy(), y, rtol=1e-5)


def test_schedules_may_count_epochs():
    trainer = make(GDASchedule(schedules.piecewise([0.5, 0.25], [1]), per="epoch"), gm_op=["GDA", "NGD"])
    assert trainer.fit([{}, {}], {}, max_epochs=2)["gda_alpha"] == [0.5, 0.5, 0.25, 0.25]


def test_di_schedule_is_in_force_and_in_the_metrics():
    problem = Quadratic()
    trainer = make(DISchedule(lambda step: 0.1 * (step + 1)), gm_op=["DI", "NGD"], problem=problem)
    gradient = trainer.hypergradient({}, {}).ll_init_gradient[0].numpy()
    history = trainer.fit({}, {}, max_steps=2)
    assert history["di_lr"] == pytest.approx([0.1, 0.2])
    first = make(DISchedule(lambda step: 0.1), gm_op=["DI", "NGD"], problem=problem)
    first.fit({}, {}, max_steps=1)
    np.testing.assert_allclose(first.initialization[0].numpy(), problem.y0 - 0.1 * gradient, rtol=1e-5)


@pytest.mark.parametrize(
    ("callback", "gm_op", "message"),
    [
        (GDASchedule(lambda s: 0.5 + 0.25 * s), ["GDA", "NGD"], r"GDASchedule at step 2: .*\(0, 1\), got 1\.0"),
        (DISchedule(lambda s: 1.0 - 2 * s), ["DI", "NGD"], r"DISchedule at step 1: .*at least 0, got -1\.0"),
        (LRSchedule(lambda s: 1.0 - s), ["NGD"], r"LRSchedule\(upper\) at step 2: the rate must be .* 0, got -1\.0"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_step(callback, gm_op, message):
    with pytest.raises(ValueError, match=message):
        make(callback, gm_op=gm_op).fit({}, {}, max_steps=5)


@pytest.mark.parametrize(
    ("callback", "operator"), [(GDASchedule(lambda s: 0.5), "GDA"), (DISchedule(lambda s: 0.5), "DI")]
)
def test_a_schedule_without_its_operator_is_refused(callback, operator):
    with pytest.raises(ValueError, match=f"needs {operator} in gm_op, which is \\['NGD'\\]"):
        make(callback).fit({}, {})


def test_lr_schedule_by_a_function_keeps_the_groups_ratios():
    trainer = make(
        LRSchedule(schedules.exponential(0.2, 0.5), level="lower"),
        LRSchedule(lambda s: 1.0 / (s + 1)),
        ll_optimizer=lambda params: jt.optim.SGD([{"params": params, "lr": 0.05}], 0.1),
    )
    history = trainer.fit({}, {}, max_steps=3)
    assert history["ll_lr"] == pytest.approx([0.1, 0.05, 0.025])
    assert history["ul_lr"] == pytest.approx([1.0, 1 / 2, 1 / 3])


@pytest.mark.parametrize("per", ["step", "epoch"])
def test_lr_schedule_by_a_jittor_scheduler(per):
    problem = Quadratic()
    trainer = make(problem=problem)
    scheduler = jt.lr_scheduler.ExponentialLR(trainer.ul_optimizer, gamma=0.5)
    trainer = make(
        LRSchedule(scheduler, per=per), problem=problem, ul_optimizer=trainer.ul_optimizer, ul_var=trainer.ul_var
    )
    history = trainer.fit([{}, {}], {}, max_epochs=2)
    expected = [0.1, 0.1, 0.05, 0.025] if per == "step" else [0.1, 0.1, 0.1, 0.1]  # Jittor repeats the first rate
    assert history["ul_lr"] == pytest.approx(expected)
    assert trainer.ul_optimizer.lr == pytest.approx(0.0125 if per == "step" else 0.05)


def test_lr_schedule_of_another_optimizer_is_refused():
    stranger = jt.lr_scheduler.StepLR(jt.optim.SGD([jt.array([1.0])], 0.1), 1)
    with pytest.raises(ValueError, match="drives another optimizer than the lower level's"):
        make(LRSchedule(stranger, level="lower")).fit({}, {})


def test_step_timer_shares_add_up_and_the_summary_names_every_part():
    timer = StepTimer()
    history = make(timer, LambdaCallback(on_step_end=lambda trainer, state: None)).fit({}, {}, max_steps=4)
    parts = ("lower", "hypergradient", "update", "callbacks", "data")
    for row in history:
        assert sum(row[f"share_{part}"] for part in parts) == pytest.approx(1.0)
    assert timer.steps == 4
    assert timer.seconds["lower"] == pytest.approx(sum(history["time_lower"]))
    assert all(part in timer.summary() for part in parts)


@pytest.mark.parametrize("na_op", [["RAD"], ["IAD"]])
def test_hypergradient_check_agrees_with_an_exact_operator(na_op):
    trainer = make(HypergradientCheck(every_n_steps=2, directions=3), na_op=na_op)
    before = trainer.hypergradient({}, {}).gradients[0].numpy()
    history = trainer.fit({}, {}, max_steps=4)
    assert len(history["hypergradient_error"]) == 2
    assert max(history["hypergradient_error"]) < 2e-3
    assert min(history["hypergradient_cosine"]) > 0.9999
    plain = make(na_op=na_op)
    np.testing.assert_array_equal(plain.hypergradient({}, {}).gradients[0].numpy(), before)
    plain.fit({}, {}, max_steps=4)
    np.testing.assert_equal(trainer.values(), plain.values())


def test_hypergradient_check_finds_a_wrong_one():
    def halve(trainer, state, result):
        result.gradients = [0.5 * g for g in result.gradients]

    wrong = LambdaCallback(on_before_upper_step=halve)
    history = make(wrong, HypergradientCheck(every_n_steps=1)).fit({}, {})
    assert history["hypergradient_error"][0] == pytest.approx(0.5, abs=5e-3)
    assert history["hypergradient_cosine"][0] == pytest.approx(1.0, abs=1e-3)


def test_lambda_callback_refuses_what_is_no_hook():
    with pytest.raises(ValueError, match="there is no hook 'on_stepend'"):
        LambdaCallback(on_stepend=print)
    with pytest.raises(TypeError, match="on_step_end must be a function, got 3"):
        LambdaCallback(on_step_end=3)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: EarlyStopping(patience=0), "patience must be at least 1, got 0"),
        (lambda: EarlyStopping(mode="less"), "mode must be 'min' or 'max', got 'less'"),
        (lambda: EarlyStopping(min_delta=-1), "min_delta must be at least 0, got -1"),
        (lambda: GradientClipping(), "give max_norm, max_value or both"),
        (lambda: GradientClipping(max_norm=0), "max_norm must be positive, got 0"),
        (lambda: GradientClipping(1.0, level="both"), "level must be 'upper' or 'lower', got 'both'"),
        (lambda: NaNGuard("ignore"), "action must be 'stop' or 'skip', got 'ignore'"),
        (lambda: ModelCheckpoint("x", every_n_steps=0), "every_n_steps must be at least 1, got 0"),
        (lambda: ModelCheckpoint("x", save_top_k=0, save_last=False), "would keep no checkpoint at all"),
        (lambda: ModelCheckpoint("x", save_top_k=-2), "save_top_k must be -1"),
        (lambda: HypergradientCheck(0), "every_n_steps and directions must be at least 1, got 0"),
        (lambda: LRSchedule(lambda s: 1.0, per="day"), "per must be 'step' or 'epoch', got 'day'"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def files(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize(
    ("arguments", "limits", "expected"),
    [
        ({"every_n_steps": 2}, {"max_steps": 5}, ["last.npz", "step-00000004.npz"]),
        ({"every_n_epochs": 2}, {"max_epochs": 3}, ["last.npz", "step-00000004.npz"]),
        ({}, {"max_epochs": 2}, ["last.npz", "step-00000004.npz"]),
        (
            {"every_n_steps": 1, "save_top_k": -1, "save_last": False},
            {"max_steps": 2},
            ["step-00000001.npz", "step-00000002.npz"],
        ),
        ({"every_n_steps": 1, "save_top_k": 0}, {"max_steps": 3}, ["last.npz"]),
        ({"every_n_seconds": 1e-9}, {"max_steps": 3}, ["last.npz", "step-00000003.npz"]),
        ({"every_n_seconds": 1e9}, {"max_steps": 3}, []),
    ],
)
def test_model_checkpoint_keeps_what_it_should(arguments, limits, expected, tmp_path):
    make(ModelCheckpoint(tmp_path, **arguments)).fit([{}, {}], {}, **limits)
    assert files(tmp_path) == expected


def test_model_checkpoint_saves_on_an_exception_if_asked(tmp_path):
    def fail(trainer, state):
        if state.step == 2:
            raise LookupError

    for asked, expected in ((False, []), (True, ["last.npz", "step-00000002.npz"])):
        folder = tmp_path / str(asked)
        saver = ModelCheckpoint(folder, every_n_steps=50, save_on_exception=asked)
        with pytest.raises(LookupError):
            make(LambdaCallback(on_step_start=fail), saver).fit({}, {}, max_steps=5)
        assert files(folder) == expected


def test_model_checkpoint_follows_a_metric_of_the_evaluation(tmp_path):
    saver = ModelCheckpoint(tmp_path, monitor="val_ul_loss", mode="max", every_n_steps=1, save_last=False)
    trainer = make(saver)
    history = trainer.fit({}, {}, max_steps=4, val_loader={}, val_every=1)
    best = 1 + int(np.argmax(history["val_ul_loss"]))
    assert files(tmp_path) == ["best.npz", f"step-{best:08d}.npz"]
    assert saver.best_path == tmp_path / f"step-{best:08d}.npz"
