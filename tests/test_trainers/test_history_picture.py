"""Which panels the picture of a run has; what it looks like was looked at."""

from jboat.trainers import history_picture
from jboat.trainers.history import History
import pytest


def filled(names, steps=30):
    history = History()
    for step in range(1, steps + 1):
        history.append(step, 0, {n: 1.0 / step for n in names if not n.startswith("val_") or step % 5 == 0})
    return history


def test_an_evaluation_lies_over_the_steps_own_number():
    names = ["ul_loss", "ll_loss", "val_ul_loss", "val_accuracy"]
    assert history_picture.panels(names) == [["ul_loss", "val_ul_loss"], ["ll_loss"], ["val_accuracy"]]


def test_by_default_the_losses_come_first_and_what_is_evaluated_is_there():
    names = [
        "ll_lr",
        "ll_loss",
        "accuracy",
        "ul_loss",
        "hypergradient_norm",
        "val_ul_loss",
        "val_accuracy",
        "time_step",
    ]
    assert history_picture.chosen(names) == [
        *("ul_loss", "ll_loss", "hypergradient_norm", "accuracy", "val_ul_loss", "val_accuracy")
    ]
    assert history_picture.chosen(["ll_loss"]) == ["ll_loss"]


def test_many_panels_stand_in_several_rows(tmp_path):
    names = ["ul_loss", "ll_loss", "hypergradient_norm", "val_ul_loss", "val_a", "val_b", "val_c"]
    text = filled(names).plot(tmp_path / "h.svg").read_text()
    assert text.count('<g id="axes_') == 6
    assert text.count("legend_1") == 1
    width, height = (float(text.split(f'{side}="')[1].split("pt")[0]) for side in ("width", "height"))
    assert width == pytest.approx(72 * 4.4 * 3)
    assert height == pytest.approx(72 * 3.2 * 2)


def test_a_run_of_one_step_shows_its_point(tmp_path):
    text = filled(["ul_loss"], steps=1).plot(tmp_path / "h.svg").read_text()
    assert "<use" in text
    assert History().plot(tmp_path / "empty.png").read_bytes().startswith(b"\x89PNG")
