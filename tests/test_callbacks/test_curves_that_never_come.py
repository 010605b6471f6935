"""What CurvePlotter does with names of metrics that no step has."""

import logging

from jboat.callbacks import CurvePlotter, LambdaCallback
import pytest
from small_trainers import make


def test_a_misspelt_metric_costs_no_run(tmp_path, caplog):
    trainer = make(CurvePlotter(tmp_path, metrics=["ul_loss", "ul_los"], every_n_epochs=1))
    with caplog.at_level(logging.WARNING, logger="jboat"):
        history = trainer.fit({}, {}, max_steps=2)
    assert len(history) == 2
    told = [record.getMessage() for record in caplog.records if "CurvePlotter" in record.getMessage()]
    assert told == ["CurvePlotter: no metric 'ul_los' so far, which is left out. Did you mean 'ul_loss'?"]
    assert (tmp_path / "curves.png").stat().st_size > 0


def test_a_metric_that_comes_late_is_not_warned_of(tmp_path, caplog):
    late = LambdaCallback(on_step_end=lambda t, s: t.log("accuracy", 1.0) if s.step > 2 else None)
    trainer = make(late, CurvePlotter(tmp_path, metrics=["accuracy"], every_n_epochs=1))
    with caplog.at_level(logging.WARNING, logger="jboat"):
        trainer.fit([{}], [{}], max_epochs=4)
    assert "no metric" not in caplog.text
    assert (tmp_path / "curves.png").stat().st_size > 0


def test_a_single_name_is_no_list():
    with pytest.raises(TypeError, match=r"metrics must be a list of names, got 'ul_loss'; write \['ul_loss'\]"):
        CurvePlotter(metrics="ul_loss")
