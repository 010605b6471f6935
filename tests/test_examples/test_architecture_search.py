"""The architecture search: an exact hypergradient finds better cells than chance."""


def test_rad_finds_a_better_cell_than_chance(run, tmp_path, capsys):
    results = run(tmp_path, "--searches", "RAD", "--random", "2", "--final-steps", "100")
    assert results["RAD"] > results["random_mean"] + 0.05
    printed = capsys.readouterr().out
    assert "operations on the edges" in printed
    assert "2 architectures" in printed
    assert (tmp_path / "architecture_search.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "RAD" / "metrics.csv").exists()
