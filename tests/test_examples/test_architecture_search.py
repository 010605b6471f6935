"""The architecture search: an exact hypergradient finds better cells than chance."""

import pytest


@pytest.fixture
def left(tmp_path, capsys):
    """Looks at what a search leaves: a table with the number of random architectures, a picture and a log."""

    def looked_at(search, architectures):
        printed = capsys.readouterr().out
        assert "operations on the edges" in printed
        assert f"{architectures} architectures" in printed
        assert (tmp_path / "architecture_search.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / search / "metrics.csv").exists()

    return looked_at


def test_a_search_of_a_few_steps_leaves_its_table_picture_and_log(run, tmp_path, left):
    """With the kernels that the test of its seed needs."""
    options = ["--steps", "2", "--random", "1", "--final-steps", "2", "--seed", "2"]
    results = run(tmp_path, "--searches", "FD (DARTS)", *options)
    assert results.keys() == {"FD (DARTS)", "random_mean", "random_best"}
    assert 0.0 < results["random_mean"] == results["random_best"] <= 1.0
    left("FD", 1)


@pytest.mark.long
def test_rad_finds_a_better_cell_than_chance(run, tmp_path, left):
    results = run(tmp_path, "--searches", "RAD", "--random", "2", "--final-steps", "100")
    assert results["RAD"] > results["random_mean"] + 0.05
    left("RAD", 2)
