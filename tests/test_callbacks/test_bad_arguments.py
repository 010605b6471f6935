"""Arguments of callbacks of a wrong kind, and what schedules give, are errors that name them."""

from jboat import BilevelTrainer
from jboat.callbacks import (
    Callback,
    CSVLogger,
    CurvePlotter,
    DISchedule,
    EarlyStopping,
    GDASchedule,
    GradientClipping,
    HypergradientCheck,
    LambdaCallback,
    LowerGradientNorm,
    LRSchedule,
    ModelCheckpoint,
    NaNGuard,
    TensorBoardLogger,
    schedules,
)
import jittor as jt
import numpy as np
from problems import Quadratic
import pytest

COUNTS = [
    (EarlyStopping, "patience", "an integer >= 1"),
    (HypergradientCheck, "every_n_steps", "an integer"),
    (HypergradientCheck, "directions", "an integer"),
    (LowerGradientNorm, "every_n_steps", "an integer >= 1"),
    (lambda **k: ModelCheckpoint("x", **k), "every_n_steps", "an integer >= 1"),
    (lambda **k: ModelCheckpoint("x", **k), "every_n_epochs", "an integer >= 1"),
    (lambda **k: ModelCheckpoint("x", **k), "save_top_k", "an integer"),
    (NaNGuard, "max_skips", "an integer >= 1"),
    (TensorBoardLogger, "every_n_steps", "an integer >= 1"),
    (TensorBoardLogger, "histograms", "an integer"),
    (CurvePlotter, "every_n_epochs", "an integer >= 1"),
    (lambda **k: schedules.cosine(1.0, 0.0, **k), "steps", "an integer >= 1"),
]
NUMBERS = [
    (EarlyStopping, "min_delta"),
    (EarlyStopping, "threshold"),
    (EarlyStopping, "divergence_threshold"),
    (GradientClipping, "max_norm"),
    (GradientClipping, "max_value"),
    (HypergradientCheck, "radius"),
    (HypergradientCheck, "tolerance"),
    (lambda **k: ModelCheckpoint("x", **k), "every_n_seconds"),
    (CSVLogger, "flush_seconds"),
    (TensorBoardLogger, "flush_seconds"),
]


def make(*callbacks, gm_op=("NGD",), **options):
    problem = Quadratic()
    ul_model, ll_model = problem.models()
    return BilevelTrainer(
        ll_model,
        ul_model,
        problem.f,
        problem.F,
        ll_optimizer=jt.optim.SGD(list(ll_model.parameters()), 0.1),
        ul_optimizer=jt.optim.SGD(list(ul_model.parameters()), 0.1),
        gm_op=list(gm_op),
        lower_iters=2,
        callbacks=callbacks,
        **options,
    )


@pytest.mark.parametrize("value", ["3", 2.5, True, [1], float("nan")])
@pytest.mark.parametrize(("callback", "name", "allowed"), COUNTS)
def test_counts_are_integers(callback, name, allowed, value):
    with pytest.raises(TypeError, match=f"{name} must be {allowed}, got "):
        callback(**{name: value})


@pytest.mark.parametrize(("callback", "name"), [(callback, name) for callback, name, _ in COUNTS])
def test_counts_may_be_numpys(callback, name):
    callback(**{name: np.int64(3)})


@pytest.mark.parametrize("value", ["3", True, [1.0], 1j])
@pytest.mark.parametrize(("callback", "name"), NUMBERS)
def test_numbers_are_numbers(callback, name, value):
    with pytest.raises(TypeError, match=f"{name} must be a number, got "):
        callback(**{name: value})


@pytest.mark.parametrize(("callback", "name"), NUMBERS)
def test_numbers_are_not_nan_and_may_be_numpys(callback, name):
    with pytest.raises(ValueError, match=name):
        callback(**{name: float("nan")})
    callback(**{name: np.float32(3.0)})


@pytest.mark.parametrize("callback", [EarlyStopping, lambda monitor: ModelCheckpoint("x", monitor=monitor)])
def test_a_monitored_metric_is_a_name(callback):
    with pytest.raises(TypeError, match="monitor must be the name of a metric, got 3"):
        callback(monitor=3)


@pytest.mark.parametrize("value", [None, "0.1", 1j, [0.1, 0.2], 10**400])
@pytest.mark.parametrize(
    ("schedule", "gm_op", "place"),
    [(LRSchedule, ["NGD"], r"LRSchedule\(upper\)"), (GDASchedule, ["GDA", "NGD"], "GDASchedule")],
)
def test_a_schedule_gives_numbers(schedule, gm_op, place, value):
    trainer = make(schedule(lambda step: 0.1 if step < 1 else value), gm_op=gm_op)
    with pytest.raises(TypeError, match=f"{place} at step 1: the schedule must give a number, got "):
        trainer.fit({}, {}, max_steps=3)
    assert trainer.state.step == 1


def test_an_infinite_rate_of_the_start_is_refused():
    trainer = make(DISchedule(lambda step: float("inf")), gm_op=["DI", "NGD"])
    with pytest.raises(ValueError, match=r"DISchedule at step 0: .*must be finite, got inf"):
        trainer.fit({}, {}, max_steps=1)


@pytest.mark.parametrize(
    ("section", "kind", "words"),
    [
        ({"CG": {"tolerance": float("inf")}}, ValueError, r"\['CG'\]\['tolerance'\] must be finite, got inf"),
        ({"FD": {"r": float("inf")}}, ValueError, r"\['FD'\]\['r'\] must be finite, got inf"),
        ({"CG": {"k": True}}, TypeError, r"\['CG'\]\['k'\] must be a number, got True"),
    ],
)
def test_options_are_finite_numbers(section, kind, words):
    with pytest.raises(kind, match=words):
        make(solver_config=section)


@pytest.mark.parametrize("seed", [2.5, "2", float("nan"), True, [1]])
def test_a_seed_is_an_integer(seed):
    with pytest.raises(TypeError, match="seed must be an integer or None, got "):
        make(seed=seed)


def test_a_metric_beyond_every_float_is_named():
    with pytest.raises(ValueError, match="the metric 'm' of an evaluation is more than a float can hold"):
        make(metrics={"m": lambda batch, ul_model, ll_model: 10**400}).evaluate({})


HOOKS = ["on_fit_start", "on_step_start", "on_lower_step_end", "on_before_upper_step", "on_step_end", "on_epoch_end"]


@pytest.mark.parametrize("hook", HOOKS)
def test_a_checkpoint_is_not_loaded_under_a_running_fit(hook, tmp_path):
    path = tmp_path / "x.npz"

    def load(trainer, state, *rest):
        trainer.load_checkpoint(path)

    trainer = make(LambdaCallback(**{hook: load}))
    trainer.save_checkpoint(path)
    with pytest.raises(RuntimeError, match=r"load_checkpoint\(\) was called while fit\(\) is under way"):
        trainer.fit([{}], {}, max_steps=2)


def test_a_checkpoint_may_be_loaded_in_setup(tmp_path):
    path = tmp_path / "x.npz"
    first = make()
    first.fit([{}], {}, max_steps=2)
    first.save_checkpoint(path)
    first.fit([{}], {}, max_steps=2)
    second = make(LambdaCallback(setup=lambda trainer, state: trainer.load_checkpoint(path)))
    second.fit([{}], {}, max_steps=4)
    assert second.history["ul_loss"] == first.history["ul_loss"]


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: EarlyStopping(patince=3), r"EarlyStopping.__init__\(\) .* 'patince'. Did you mean 'patience'\?"),
        (lambda: ModelCheckpoint("x", save_topk=3), "'save_topk'. Did you mean 'save_top_k'"),
        (lambda: CSVLogger(foldr="x"), "'foldr'. Did you mean 'folder'"),
    ],
)
def test_a_misspelt_argument_is_told_with_the_nearest_one(make_it, message):
    with pytest.raises(TypeError, match=message):
        make_it()


def test_so_are_those_of_a_users_own_callbacks_but_not_where_any_keyword_is_taken():
    class Own(EarlyStopping):
        def __init__(self, folder, **others):
            super().__init__(**others)
            self.folder = folder

    class Plain(Callback):
        def __init__(self, *, every=1):
            self.every = every

    assert Own("there", patience=3).folder == "there"
    with pytest.raises(TypeError, match="Did you mean 'patience'"):
        Own("there", patince=3)
    with pytest.raises(TypeError, match="Did you mean 'every'"):
        Plain(evry=2)
    assert Plain(every=2).every == 2


@pytest.mark.parametrize("name", ["curves.xyz", "curves.csv"])
def test_a_picture_of_no_known_format_is_refused_at_once(name):
    with pytest.raises(ValueError, match=f"name must end with a format of pictures, got '{name}'; there are .*png"):
        CurvePlotter(name=name)


@pytest.mark.parametrize("name", ["curves", "curves.PDF", "a/curves.svg"])
def test_other_names_of_pictures_are_taken(name):
    assert CurvePlotter(name=name).key == f"CurvePlotter({name})"
