"""What the loggers write is what the metrics held."""

import csv
import io
import json
import math

from jboat.callbacks import (
    Callback,
    CSVLogger,
    CurvePlotter,
    JSONLLogger,
    LambdaCallback,
    ModelCheckpoint,
    ProgressBar,
    TensorBoardLogger,
)
import pytest
from small_trainers import make


def read(path):
    with path.open(newline="") as file:
        return [{k: float(v) for k, v in row.items() if v != ""} for row in csv.DictReader(file)]


def test_csv_holds_the_history(tmp_path):
    trainer = make(CSVLogger(tmp_path))
    history = trainer.fit({}, {}, max_steps=5, val_loader={}, val_every=2)
    assert read(tmp_path / "metrics.csv") == history.rows
    assert "val_ul_loss" in read(tmp_path / "metrics.csv")[1]


def test_csv_goes_on_in_a_second_fit_and_starts_anew_in_a_second_run(tmp_path):
    trainer = make(CSVLogger(tmp_path))
    trainer.fit({}, {}, max_steps=2)
    trainer.fit({}, {}, max_steps=2, val_loader={})
    assert read(tmp_path / "metrics.csv") == trainer.history.rows
    make(CSVLogger(tmp_path)).fit({}, {}, max_steps=1)
    assert [row["step"] for row in read(tmp_path / "metrics.csv")] == [1]


def test_csv_without_times_is_the_same_in_two_runs(tmp_path):
    for name in "ab":
        make(CSVLogger(tmp_path / name, times=False), seed=1).fit({}, {}, max_steps=3)
    first, second = ((tmp_path / name / "metrics.csv").read_text() for name in "ab")
    assert first == second
    assert "time_" not in first


def test_csv_has_the_rows_that_a_killed_run_had_not_written(tmp_path):
    trainer = make(CSVLogger(tmp_path))
    trainer.fit({}, {}, max_steps=3)
    lines = (tmp_path / "metrics.csv").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.csv").write_text("".join(lines[:2]))
    trainer.fit({}, {}, max_steps=1)
    assert [row["step"] for row in read(tmp_path / "metrics.csv")] == [1, 2, 3, 4]


def test_csv_is_closed_and_complete_after_an_exception(tmp_path):
    class Fail(Callback):
        def on_step_start(self, trainer, state):
            if state.step == 2:
                raise LookupError

    with pytest.raises(LookupError):
        make(CSVLogger(tmp_path), Fail()).fit({}, {}, max_steps=5)
    assert [row["step"] for row in read(tmp_path / "metrics.csv")] == [1, 2]


def test_tensorboard_holds_the_metrics_the_configuration_and_histograms(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = make(TensorBoardLogger(tmp_path, histograms=2), gm_op=["GDA", "NGD"], na_op=["PTT", "CG"])
    history = trainer.fit({}, {}, max_steps=4, val_loader={}, val_every=2)
    events = EventAccumulator(str(tmp_path), size_guidance={"histograms": 0}).Reload()
    tags = events.Tags()
    train = {"ll_loss", "hypergradient_norm", "ll_lr", "ul_lr", "gda_alpha", "ptt_index"}
    expected = {f"train/{name}" for name in train | {"cg_residual", "cg_iterations", "cg_breakdown"}}
    expected |= {
        f"wall_seconds/{name}" for name in ("lower", "hypergradient", "update", "step", "callbacks", "data")
    } | {"loss/ul_loss", "loss/val_ul_loss"}
    assert set(tags["scalars"]) == expected
    for name in ("ul_loss", "ptt_index", "cg_residual"):
        group = "loss" if name == "ul_loss" else "train"
        got = [(e.step, e.value) for e in events.Scalars(f"{group}/{name}")]
        assert got == [(s, pytest.approx(v)) for s, v in zip(history["step"], history[name], strict=True)]
    assert [e.value for e in events.Scalars("loss/val_ul_loss")] == pytest.approx(history["val_ul_loss"])
    text = events.Tensors("configuration/text_summary")[0].tensor_proto.string_val[0].decode()
    configuration = json.loads(text.strip("`\n"))
    assert configuration["na_op"] == ["PTT", "CG"]
    assert [e.step for e in events.Histograms("upper_variables/value")] == [2, 4]


def test_tensorboard_logs_one_step_in_n(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    make(TensorBoardLogger(tmp_path, every_n_steps=3)).fit({}, {}, max_steps=7)
    assert [e.step for e in EventAccumulator(str(tmp_path)).Reload().Scalars("loss/ul_loss")] == [3, 6]


def test_a_logger_dir_alone_gets_both_logs(tmp_path):
    make(logger_dir=tmp_path).fit({}, {}, max_steps=1)
    assert (tmp_path / "metrics.csv").exists()
    assert list(tmp_path.glob("events.out.tfevents*"))


def test_every_fit_keeps_its_events(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = make(TensorBoardLogger(tmp_path))
    for _ in range(2):  # both within one second, the resolution of an event file's name
        trainer.fit({}, {}, max_steps=2)
    files = [EventAccumulator(str(path)).Reload() for path in tmp_path.glob("events.out.tfevents*")]
    assert sorted([e.step for e in file.Scalars("loss/ul_loss")] for file in files) == [[1, 2], [3, 4]]


def test_tensorboard_draws_the_lower_losses_of_a_step(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class Keep(Callback):
        def on_hypergradient_end(self, trainer, state, result):
            self.losses = result.ll_losses

    keep = Keep()
    make(TensorBoardLogger(tmp_path, lower_curves=2), keep).fit({}, {}, max_steps=2)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [tag for tag in events.Tags()["scalars"] if tag.startswith("lower_loop")] == ["lower_loop/step_2"]
    curve = events.Scalars("lower_loop/step_2")
    assert [e.step for e in curve] == list(range(len(keep.losses)))
    assert [e.value for e in curve] == pytest.approx(keep.losses)


def test_tensorboard_writes_while_the_run_goes_on(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    seen = []

    class Look(Callback):
        rank = 2

        def on_step_end(self, trainer, state):
            tags = EventAccumulator(str(tmp_path)).Reload().Tags()["scalars"]
            seen.append("loss/ul_loss" in tags)

    make(TensorBoardLogger(tmp_path, flush_seconds=0.0), Look()).fit({}, {}, max_steps=2)
    assert seen == [True, True]


@pytest.mark.parametrize("logger", [CSVLogger, TensorBoardLogger])
def test_a_logger_without_a_folder_says_so(logger):
    with pytest.raises(ValueError, match=f"{logger.__name__} does not know where to write: give it a folder"):
        make(logger()).fit({}, {}, max_steps=1)


@pytest.mark.parametrize(
    "arguments", [{"every_n_steps": 0}, {"histograms": -1}, {"lower_curves": -1}, {"flush_seconds": -1.0}]
)
def test_tensorboard_arguments(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        TensorBoardLogger(**arguments)


def test_progress_bar_shows_losses_and_is_silent_where_there_is_no_terminal():
    shown = io.StringIO()
    trainer = make(ProgressBar(shown, disable=False))
    trainer.fit({}, {}, max_steps=3)
    first, last = (shown.getvalue().split("\r")[i] for i in (1, -1))
    assert "compiles" in first  # nobody shall think that the first step hangs
    assert "compiles" not in last
    assert "3/3" in last
    assert f"ul_loss={trainer.state.metrics['ul_loss']:.4g}" in last
    quiet = io.StringIO()
    make(ProgressBar(quiet)).fit({}, {}, max_steps=3)
    assert quiet.getvalue() == ""


def test_jsonl_holds_the_history_and_spells_what_json_has_not(tmp_path):
    numbers = iter([math.nan, math.inf, -math.inf, 1.0])
    script = LambdaCallback(on_step_end=lambda trainer, state: state.metrics.update(script=next(numbers)))
    trainer = make(JSONLLogger(tmp_path), script)
    trainer.fit({}, {}, max_steps=3)
    trainer.fit({}, {}, max_steps=1, val_loader={})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row.pop("script") for row in rows] == ["NaN", "Infinity", "-Infinity", 1.0]
    assert rows == [{k: v for k, v in row.items() if k != "script"} for row in trainer.history]
    assert "val_ul_loss" in rows[-1]


@pytest.mark.parametrize("logger", [CSVLogger, JSONLLogger])
def test_row_loggers_drop_the_rows_after_the_checkpoint_that_is_resumed(logger, tmp_path):
    checkpoint = {"every_n_steps": 2, "save_top_k": 0}
    make(logger(tmp_path), ModelCheckpoint(tmp_path, **checkpoint)).fit({}, {}, max_steps=3)
    resumed = make(logger(tmp_path), ModelCheckpoint(tmp_path, **checkpoint))
    resumed.fit({}, {}, max_steps=4, resume_from="last")
    lines = (tmp_path / ("metrics.csv" if logger is CSVLogger else "metrics.jsonl")).read_text().splitlines()
    steps = [int(line.split(",")[0].split(":")[-1]) for line in lines[logger is CSVLogger :]]
    assert steps == [1, 2, 3, 4]
    assert resumed.history["step"] == [1, 2, 3, 4]


def test_curve_plotter_draws_at_the_end_and_after_an_exception(tmp_path):
    make(CurvePlotter(tmp_path)).fit({}, {}, max_steps=2)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")

    def fail(trainer, state):
        if state.step == 2:
            raise LookupError

    with pytest.raises(LookupError):
        make(CurvePlotter(tmp_path, name="failed.svg"), LambdaCallback(on_step_start=fail)).fit({}, {}, max_steps=5)
    assert "svg" in (tmp_path / "failed.svg").read_text()
