"""The main example, small, and on MNIST's file format."""

import gzip
from pathlib import Path
import struct

import newcomer
import numpy as np
import pytest

README = Path(__file__).parents[2] / "README.md"


def closed(results):
    """The share of the distance from (a) to (c) that (b) closes."""
    return (results["learned"] - results["corrupted"]) / (results["clean"] - results["corrupted"])


@pytest.mark.parametrize("count", [1, pytest.param(5, marks=pytest.mark.long)])
def test_defaults_find_the_corrupted_labels(count, run, tmp_path, capsys):
    [shown] = [step.text for step in newcomer.steps(README.read_text()) if step.kind == "output"]
    seeds = [run(tmp_path)]
    printed = capsys.readouterr().out
    assert newcomer.differences(shown, printed) == []
    assert "F1 " in printed
    seeds += [run(tmp_path, "--seed", str(seed)) for seed in range(1, count)]
    assert np.mean([closed(r) for r in seeds]) >= 0.9
    assert np.mean([r["f1"] for r in seeds]) >= 0.95
    assert (tmp_path / "metrics.csv").exists()
    assert list(tmp_path.glob("events.out.tfevents*"))
    assert (tmp_path / "hyper_cleaning.png").read_bytes().startswith(b"\x89PNG")


def test_another_chain_and_model(run, tmp_path):
    options = [
        "--gm-op",
        "GDA",
        "NGD",
        "--na-op",
        "RGT",
        "RAD",
        "--model",
        "mlp",
        "--steps",
        "60",
        "--lower-iters",
        "10",
    ]
    results = run(tmp_path, *options)
    assert results["f1"] >= 0.85
    assert results["learned"] > results["corrupted"]


def test_every_corrupted_label_differs_from_the_true_one(example):
    labels = np.arange(1000) % 10
    noisy, wrong = example.corrupt(labels, 0.3, 10, np.random.default_rng(0))
    assert wrong.sum() == 300
    np.testing.assert_array_equal(noisy != labels, wrong)
    assert set(np.unique(noisy)) == set(range(10))


def write_idx(path, array, compress):
    content = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if compress else content)


@pytest.mark.parametrize("compress", [False, True])
def test_mnist_files_are_read(example, tmp_path, compress):
    rng = np.random.default_rng(0)
    ending = ".gz" if compress else ""
    images, labels = rng.integers(0, 256, (12, 4, 3), np.uint8), np.arange(12, dtype=np.uint8) % 10
    for stem, array in (("train-images-idx3", images), ("train-labels-idx1", labels)):
        write_idx(tmp_path / f"{stem}-ubyte{ending}", array, compress)
        write_idx(tmp_path / f"{stem.replace('train', 't10k')}-ubyte{ending}", array[:5], compress)
    data = example.load_mnist(tmp_path, rng)
    assert data.train_x.shape == data.val_x.shape == (6, 12)
    np.testing.assert_allclose(data.test_x, images[:5].reshape(5, 12) / 255.0, rtol=1e-6)
    np.testing.assert_array_equal(data.test_y, labels[:5])
    (tmp_path / f"t10k-labels-idx1-ubyte{ending}").unlink()
    with pytest.raises(SystemExit, match="no file t10k-labels"):
        example.load_mnist(tmp_path, rng)
