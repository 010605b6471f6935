"""The few-shot example: what is learned on some classes helps on others, and images in folders are read."""

import numpy as np
import pytest


def test_learned_starts_beat_an_untrained_one(run, tmp_path, capsys):
    options = ["--steps", "60", "--test-tasks", "30", "--scratch-steps", "5", "--methods", "MAML", "FOMAML", "GAFFO"]
    scores = run(tmp_path, *options)
    assert list(scores) == ["from scratch", "MAML", "FOMAML", "GAFFO"]
    assert all(len(values) == 30 for values in scores.values())
    scratch = scores["from scratch"].mean()  # as many steps in a task as MAML
    assert scores["MAML"].mean() > scratch + 0.03
    assert scores["FOMAML"].mean() > 0.55
    assert scores["GAFFO"].mean() > scratch
    assert "30 test tasks" in capsys.readouterr().out
    assert (tmp_path / "meta_learning.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "FOMAML" / "metrics.csv").exists()


def test_folders_of_images_are_classes(example, tmp_path):
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for alphabet in ("a", "b"):
        for character in range(6):
            folder = tmp_path / alphabet / f"character{character}"
            folder.mkdir(parents=True)
            for number in range(3):
                image.fromarray(rng.integers(0, 255, (20, 20), dtype=np.uint8)).save(folder / f"{number}.png")
    train, held_out = example.load_folder(tmp_path, 8, False, np.random.default_rng(0))
    assert (len(train), len(held_out)) == (9, 3)
    assert train[0].shape == (3, 1, 8, 8)
    assert 0.0 <= train[0].min() <= train[0].max() <= 1.0
    coloured, _ = example.load_folder(tmp_path, 8, True, np.random.default_rng(0))
    assert coloured[0].shape == (3, 3, 8, 8)
    with pytest.raises(SystemExit, match="at least 8 classes"):
        example.load_folder(tmp_path / "a", 8, False, np.random.default_rng(0))


def test_a_task_has_its_ways_and_shots_and_no_image_twice(example):
    classes = [np.full((9, 1, 1, 1), 100 * c) + np.arange(9).reshape(9, 1, 1, 1) for c in range(7)]
    args = example.parser().parse_args(["--ways", "4", "--shots", "2", "--queries", "3"])
    task = example.draw_task(classes, args, np.random.default_rng(0))
    assert task.support["target"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(task.query["data"]) == 12
    for way in range(4):
        images = np.concatenate([part["data"][part["target"] == way].ravel() for part in task])
        assert len(set(images.tolist())) == 5
        assert len(set((images // 100).tolist())) == 1
