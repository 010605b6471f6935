"""The architecture search: an exact hypergradient finds better cells than chance."""

import pytest


@pytest.fixture
def left(tmp_path, capsys):
    """What every search leaves: two random architectures' line, a picture and a log."""

    def checked():
        printed = capsys.readouterr().out
        assert "operations on the edges" in printed
        assert "2 architectures" in printed
        assert (tmp_path / "architecture_search.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / "RAD" / "metrics.csv").exists()

    return checked


def test_a_search_of_a_few_steps_leaves_its_table_picture_and_log(run, tmp_path, left):
    results = run(tmp_path, "--searches", "RAD", "--steps", "2", "--random", "2", "--final-steps", "2")
    assert results.keys() == {"RAD", "random_mean", "random_best"}
    assert 0.0 < results["random_mean"] <= results["random_best"] <= 1.0
    left()


@pytest.mark.long
def test_rad_finds_a_better_cell_than_chance(run, tmp_path, left):
    results = run(tmp_path, "--searches", "RAD", "--random", "2", "--final-steps", "100")
    assert results["RAD"] > results["random_mean"] + 0.05
    left()
