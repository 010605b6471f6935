"""The history's files, and that files are written whole or not at all."""

import csv
import json

from jboat import History
from jboat.trainers.persistence.atomic_file import atomic_file
import pytest


@pytest.fixture
def history():
    made = History()
    made.append(1, 0, {"ul_loss": 0.1})
    made.append(2, 0, {"ul_loss": 0.3, "val_accuracy": 0.5})
    return made


def test_columns_and_names(history):
    assert history["ul_loss"] == [0.1, 0.3]
    assert history["val_accuracy"] == [0.5]
    assert history.names() == ["step", "epoch", "ul_loss", "val_accuracy"]
    assert history[-1] == {"step": 2, "epoch": 0, "ul_loss": 0.3, "val_accuracy": 0.5}
    with pytest.raises(IndexError):
        history[2]
    with pytest.raises(KeyError, match="no metric 'loss'; there are step, epoch, ul_loss, val_accuracy"):
        history["loss"]


def test_csv_and_json(history, tmp_path):
    with history.to_csv(tmp_path / "deep" / "h.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"step": "1", "epoch": "0", "ul_loss": "0.1", "val_accuracy": ""},
            {"step": "2", "epoch": "0", "ul_loss": "0.3", "val_accuracy": "0.5"},
        ]
    assert json.loads(history.to_json(tmp_path / "h.json").read_text()) == history.rows


def test_state_comes_back(history):
    other = History()
    other.load_state_dict(history.state_dict())
    assert other.rows == history.rows
    assert isinstance(other.rows[0]["step"], int)


def test_plot_of_chosen_metrics(history, tmp_path):
    history.plot(tmp_path / "h.svg", ["val_accuracy"])
    picture = (tmp_path / "h.svg").read_text()
    assert picture.count('<g id="axes_') == 1
    with pytest.raises(KeyError, match="no metric 'nothing'"):
        history.plot(tmp_path / "h.svg", ["nothing"])
    assert (tmp_path / "h.svg").read_text() == picture


@pytest.mark.parametrize("mode", ["w", "wb"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(mode, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail():
        with atomic_file(path, mode) as file:
            file.write("new" if mode == "w" else b"new")
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"
