"""The subclassing example: it learns to augment, and a seed decides everything."""


def test_the_learned_augmentation_helps(run, tmp_path, capsys):
    results = run(tmp_path)
    assert 0.2 < results["strength"] < 1.0
    assert results["learned"] > results["none"] + 0.05
    assert "learned strength" in capsys.readouterr().out
    assert "strength" in (tmp_path / "metrics.csv").read_text().splitlines()[0]
    assert list(tmp_path.glob("events.out.tfevents*"))
    assert (tmp_path / "custom_task.png").read_bytes().startswith(b"\x89PNG")
