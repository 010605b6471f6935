"""``trainer.log`` and writes to ``state.metrics``: what counts, where it arrives, and that nothing is lost."""

import copy
import csv
import json
import logging

from jboat import BilevelTrainer
from jboat.callbacks import (
    CSVLogger,
    EarlyStopping,
    HypergradientCheck,
    JSONLLogger,
    LambdaCallback,
    LowerGradientNorm,
    StepTimer,
    TensorBoardLogger,
)
import jittor as jt
import numpy as np
from problems import Quadratic
import pytest


def make(*, log_f=None, log_F=None, callbacks=(), cls=BilevelTrainer, **arguments):
    """A trainer whose objectives log; ``log_f`` and ``log_F`` are called with the trainer and the lower model."""
    problem = Quadratic()
    ul_model, ll_model = problem.models()

    def f(batch, ul_model, ll_model):
        if log_f:
            log_f(trainer, ll_model)
        return problem.f(batch, ul_model, ll_model)

    def F(batch, ul_model, ll_model):
        if log_F:
            log_F(trainer, ll_model)
        return problem.F(batch, ul_model, ll_model)

    trainer = cls(
        ll_model,
        ul_model,
        f,
        F,
        ll_optimizer=jt.optim.SGD(list(ll_model.parameters()), 0.1),
        ul_optimizer=jt.optim.SGD(list(ul_model.parameters()), 0.1),
        callbacks=callbacks,
        **{"lower_iters": 3, **arguments},
    )
    return trainer


def first_entry(trainer, ll_model):
    trainer.log("first", ll_model()[0])


CHAINS = {
    "RAD by graphs": {},
    "RAD by replay": {"solver_config": {"RAD": {"remat_every": 2}}},
    "CG": {"na_op": ["CG"]},
    "NS": {"na_op": ["NS"]},
    "FD": {"na_op": ["FD"]},
    "IGA": {"na_op": ["IGA"]},
    "PTT": {"na_op": ["PTT", "RAD"]},
}


@pytest.mark.parametrize("chain", CHAINS)
def test_f_counts_once_a_lower_step_and_big_f_once_at_the_end(chain):
    """The numbers of numpy's own iterates, whatever else the operators and callbacks call."""
    calls = []

    def log(trainer, ll_model):
        trainer.log("first", ll_model()[0])
        trainer.log("call", len(calls))
        calls.append(1)

    start = LambdaCallback(on_lower_loop_start=lambda t, s: calls.clear())
    watchers = [start, HypergradientCheck(every_n_steps=1, directions=1), LowerGradientNorm(), StepTimer()]
    trainer = make(
        log_f=log,
        log_F=lambda t, ll_model: t.log("last", ll_model()[0]),
        callbacks=watchers,
        **CHAINS[chain],
    )
    history = trainer.fit({}, {}, max_steps=1)
    problem = Quadratic()
    ys = problem.iterates(problem.x0, problem.y0, 3, 0.1, np.zeros(3))
    chosen = 1 + int(np.argmax([problem.upper(y, problem.x0) for y in ys[1:]])) if chain == "PTT" else 3
    assert history["first"] == [pytest.approx(np.mean([y[0] for y in ys[:3]]), rel=1e-5)]
    assert history["last"] == [pytest.approx(ys[chosen][0], rel=1e-5)]
    assert history["call"] == [1.0]  # those numbered 0, 1 and 2, and none of those that followed


def test_with_gda_big_f_counts_where_the_hypergradient_starts():
    calls = []
    trainer = make(
        log_f=lambda t, m: t.log("calls_of_f", 1.0),
        log_F=lambda t, ll_model: (calls.append(1), t.log("last", ll_model()[0])),
        gm_op=["GDA", "NGD"],
        solver_config={"GDA": {"alpha_init": 0.5, "alpha_decay": 0.9}},
    )
    history = trainer.fit({}, {}, max_steps=1)
    problem = Quadratic()
    y = problem.iterates(problem.x0, problem.y0, 3, 0.1, 0.5 * 0.9 ** np.arange(3))[-1]
    assert history["last"] == [pytest.approx(y[0], rel=1e-5)]
    assert len(calls) > 3


def test_a_dual_multiplier_and_a_first_order_method_lose_nothing():
    for arguments in ({"gm_op": ["DM"]}, {"fo_op": "VFO"}, {"gm_op": ["GDA", "DM"]}):
        trainer = make(
            log_f=lambda t, m: t.log("one", 1.0), log_F=lambda t, m: t.log("two", np.float32(2.0)), **arguments
        )
        history = trainer.fit({}, {}, max_steps=2)
        assert history["one"] == [1.0, 1.0]
        assert history["two"] == [2.0, 2.0]


def test_accumulated_hypergradients_are_averaged():
    numbers = iter(range(100))
    trainer = make(log_F=lambda t, m: t.log("number", next(numbers)), accumulate=2)
    first, second = trainer.fit([{}, {}, {}, {}], {}, max_steps=2)["number"]
    assert second - first == 2.0  # two calls a step
    assert first % 1 == 0.5


def test_nothing_is_fetched_before_the_step_ends(monkeypatch):
    events = []
    for name in ("item", "numpy"):
        real = getattr(jt.Var, name)
        monkeypatch.setattr(jt.Var, name, lambda v, real=real: (events.append("fetch"), real(v))[1])

    def run(log):
        events.clear()
        watch = LambdaCallback(
            on_lower_loop_start=lambda t, s: events.append("loop"),
            on_lower_loop_end=lambda t, s: events.append("end"),
        )
        make(log_f=log, callbacks=[watch], lower_iters=5).fit({}, {}, max_steps=2, check_second_order=False)
        return [events[i : events.index("end", i)].count("fetch") for i, e in enumerate(events) if e == "loop"]

    assert run(first_entry) == run(None)


HOOKS = (
    *("setup", "on_fit_start", "on_epoch_start", "on_step_start", "on_lower_loop_start", "on_lower_step_end"),
    *("on_lower_loop_end", "on_hypergradient_start", "on_hypergradient_end", "on_before_upper_step", "on_step_end"),
    *("on_evaluate_start", "on_evaluate_end", "on_epoch_end", "on_fit_end"),
)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_from_every_hook_a_number_reaches_metrics_history_and_loggers(rank, tmp_path):
    def of(hook):
        def call(trainer, state, *extra):
            trainer.log(f"log_{hook}", 2.0 * state.step)
            state.metrics[f"write_{hook}"] = 3.0

        return call

    talker = LambdaCallback(**{hook: of(hook) for hook in HOOKS})
    talker.rank = rank
    loggers = [CSVLogger(tmp_path), JSONLLogger(tmp_path), TensorBoardLogger(tmp_path)]
    trainer = make(callbacks=[*loggers, talker])
    history = trainer.fit([{}, {}], {}, max_epochs=2, val_loader={})
    assert history["step"] == [1, 2, 3, 4]
    expected = {f"{way}_{hook}" for way in ("log", "write") for hook in HOOKS}
    assert expected <= set(history.names())
    every_step = set(HOOKS[3:11])
    for hook in every_step:
        assert history[f"log_{hook}"] == [2.0 * (s if hook == "on_step_end" else s - 1) for s in (1, 2, 3, 4)], hook
        assert history[f"write_{hook}"] == [3.0] * 4
    at = {name: [row["step"] for row in history.rows if name in row] for name in expected}
    assert at["log_setup"] == at["write_on_fit_start"] == [1]
    assert at["log_on_epoch_start"] == at["write_on_epoch_start"] == [1, 3]
    assert at["log_on_epoch_end"] == at["write_on_evaluate_end"] == at["log_on_evaluate_end"] == [2, 4]
    assert at["log_on_fit_end"] == at["write_on_fit_end"] == [4]
    with (tmp_path / "metrics.csv").open(newline="") as file:
        assert [{k: float(v) for k, v in row.items() if v != ""} for row in csv.DictReader(file)] == history.rows
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == history.rows
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path)).Reload()
    for name in expected:
        assert [e.step for e in events.Scalars(f"train/{name}")] == at[name], name


def test_a_number_of_a_step_that_failed_does_not_join_the_next_fit():
    def fail_once(trainer, state):
        trainer.log("tries", state.step)
        if len(seen) == 0:
            seen.append(1)
            raise LookupError

    seen = []
    trainer = make(callbacks=[LambdaCallback(on_before_upper_step=lambda t, s, r: fail_once(t, s))])
    with pytest.raises(LookupError):
        trainer.fit({}, {}, max_steps=2)
    trainer.fit({}, {}, max_steps=2)
    assert trainer.history["tries"] == [0.0, 1.0]


def test_evaluations_average_over_batches_by_their_size():
    class Own(BilevelTrainer):
        def evaluation_step(self, batch):
            self.log("size", float(len(batch["data"])))
            return super().evaluation_step(batch)

    trainer = make(cls=Own, log_F=lambda t, ll_model: t.log("first", ll_model()[0]))
    loader = [{"data": np.zeros((n, 2), "float32")} for n in (1, 3)]
    numbers = trainer.evaluate(loader)
    assert numbers["size"] == (1 * 1 + 3 * 3) / 4
    assert numbers["first"] == pytest.approx(float(trainer.ll_var[0].numpy()[0]))
    history = trainer.fit({}, {}, max_steps=1, val_loader=loader)
    assert history["val_size"] == [2.5]
    assert history["val_first"] == [pytest.approx(float(trainer.ll_var[0].numpy()[0]))]


def test_what_an_objective_logs_can_be_monitored():
    stopping = EarlyStopping("val_first", patience=1)
    trainer = make(log_F=first_entry, callbacks=[stopping])
    trainer.fit({}, {}, max_steps=4, val_loader={}, val_every=1)  # log_F is a function of its own
    with pytest.raises(ValueError, match="there is no metric 'val_frist'"):
        make(log_F=first_entry, callbacks=[EarlyStopping("val_frist")]).fit({}, {}, max_steps=4, val_loader={})


def test_hypergradient_and_calls_from_outside_log_nothing(caplog):
    trainer = make(log_f=first_entry, log_F=first_entry)
    with caplog.at_level(logging.WARNING, "jboat"):
        trainer.hypergradient({}, {})
        assert not caplog.records
        trainer.log("first", 1.0)
        trainer.log("first", 1.0)
    assert [r.getMessage() for r in caplog.records] == [
        "trainer.log('first') is called outside of fit() and evaluate(), and goes nowhere"
    ]
    calling = []

    def call(trainer, state):
        calling.append(1)
        trainer.hypergradient({}, {})

    inside = make(
        callbacks=[LambdaCallback(on_step_end=call)],
        log_f=lambda t, m: t.log("calls", 50.0 if calling else 1.0),
    )
    inside.fit({}, {}, max_steps=1)
    assert inside.history["calls"] == [1.0]


WRONG = [
    ("a", np.zeros(2), TypeError, r"'a' of trainer.log\(\) must be one number, got an array of shape \[2\]"),
    ("a", jt.array([1.0, 2.0]), TypeError, r"'a' of trainer.log\(\) must be one number, got a Var of shape \[2\]"),
    ("a", None, TypeError, "'a' .* got None"),
    ("a", "0.5", TypeError, "'a' .* got '0.5'"),
    ("a", {"b": 1}, TypeError, "'a' .* got {'b': 1}"),
    ("ul_loss", 1.0, ValueError, "'ul_loss'.* of jboat's own"),
    ("epoch", 1.0, ValueError, "'epoch'.* of jboat's own"),
    ("time_step", 1.0, ValueError, "'time_step'.*begin with 'time_'"),
    ("val_a", 1.0, ValueError, "'val_a'.*begin with 'val_'.*leave it out"),
    (3, 1.0, TypeError, "got the name 3"),
]


@pytest.mark.parametrize(("name", "value", "error", "said"), WRONG)
def test_what_is_no_metric_is_named(name, value, error, said):
    with pytest.raises(error, match=said):
        make(log_f=lambda t, m: t.log(name, value)).fit({}, {}, max_steps=1)


def test_two_sources_of_a_name_are_refused():
    def write(name):
        return lambda trainer, state, *extra: state.metrics.update({name: 1.0})

    with pytest.raises(ValueError, match=r"'mine' was both written to state.metrics and logged"):
        make(log_f=lambda t, m: t.log("mine", 1.0), callbacks=[LambdaCallback(on_step_start=write("mine"))]).fit(
            {}, {}, max_steps=1
        )
    with pytest.raises(ValueError, match=r"'mine' is logged by trainer.log.* as well"):
        make(log_f=lambda t, m: t.log("mine", 1.0), callbacks=[LambdaCallback(on_step_end=write("mine"))]).fit(
            {}, {}, max_steps=1
        )
    with pytest.raises(ValueError, match=r"'ul_loss' was written to state.metrics during the step"):
        make(callbacks=[LambdaCallback(on_step_start=write("ul_loss"))]).fit({}, {}, max_steps=1)
    with pytest.raises(ValueError, match=r"'cg_residual' was logged by trainer.log"):
        make(log_f=lambda t, m: t.log("cg_residual", 1.0), na_op=["CG"]).fit({}, {}, max_steps=1)
    with pytest.raises(ValueError, match=r"'written' .* is in state.metrics already"):
        make(
            callbacks=[LambdaCallback(on_step_end=lambda t, s: (s.metrics.update(written=1.0), t.log("written", 2.0)))]
        ).fit({}, {}, max_steps=1)


def test_a_resumed_run_logs_what_the_whole_one_does(tmp_path):
    def run(**arguments):
        hooks = {h: lambda t, s, *e, h=h: t.log(h, s.step) for h in ("on_step_end", "on_epoch_end", "on_evaluate_end")}
        trainer = make(log_f=first_entry, callbacks=[LambdaCallback(**hooks)])
        return trainer, lambda **more: trainer.fit([{}, {}], {}, val_loader={}, val_every=1, **arguments, **more)

    whole, fit = run(max_steps=4)
    fit()
    half, fit = run(max_steps=3)
    fit()
    half.save_checkpoint(tmp_path / "c.npz")
    rest, fit = run(max_steps=4)
    fit(resume_from=tmp_path / "c.npz")
    timeless = [
        [{k: v for k, v in row.items() if not k.startswith("time_")} for row in t.history.rows] for t in (whole, rest)
    ]
    assert timeless[0] == timeless[1]


def test_copies_of_the_metrics_are_plain_dicts():
    copies = []

    def keep(trainer, state):
        copies.extend([copy.copy(state.metrics), copy.deepcopy(state.metrics), dict(state.metrics)])
        for kept in copies[-3:]:
            kept["own"] = 1.0

    callback = LambdaCallback(on_step_end=keep)
    callback.rank = 2
    trainer = make(log_f=first_entry, callbacks=[callback])
    trainer.fit({}, {}, max_steps=2)
    assert [type(kept) for kept in copies] == [dict] * 6
    assert "own" not in trainer.history.names()
    assert "own" not in trainer.state.metrics
