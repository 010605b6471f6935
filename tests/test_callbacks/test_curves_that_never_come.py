"""What CurvePlotter does with names of metrics that no step has."""

import logging

from jboat.callbacks import CurvePlotter
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


def test_a_single_name_is_no_list():
    with pytest.raises(TypeError, match=r"metrics must be a list of names, got 'ul_loss'; write \['ul_loss'\]"):
        CurvePlotter(metrics="ul_loss")
