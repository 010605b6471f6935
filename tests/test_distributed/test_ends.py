"""Ranks end together, whichever of them is told to; what they are given wrong, all refuse."""

import csv
import json

import numpy as np
import pytest

STEPS = {  # of 15
    "stop at a step's end": (4, "callback"),
    "stop at a step's start": (5, "callback"),
    "stop at an epoch's start": (3, "callback"),
    "stop at an epoch's end": (6, "callback"),
    "stop at the start": (0, "callback"),
    "max_time": (4, "max_time"),
    "EarlyStopping": (None, "early_stopping"),
    "SIGTERM": (3, "interrupted"),
    "SIGINT": (3, "interrupted"),
}
OTHER = "ValueError: all ranks have to do the same, but on ranks 0 and 1"
REFUSED = {
    "other order": "ValueError: rank 1 drew other batches than rank 0",
    "shorter": "ValueError: ll_loader is shorter on rank 1 than on the others",
    "shorter list": f"{OTHER} the length of ll_loader is 3 and 2",
    "small batch": "ValueError: ll_loader gave a batch of 1 samples, and there are 2 ranks",
    "small upper batch": "ValueError: ul_loader gave a batch of 1 samples, and there are 2 ranks",
    "other lower_iters": f"{OTHER} lower_iters is 6 and 7",
    "no GPU": f"{OTHER} device is 'cuda' and 'cpu'",
    "task not finite": "NonFiniteError: NGD: the lower-level variables are not finite at outer step 1, inner step 1",
    "other methods": "RuntimeError: all ranks have to call the same methods in the same order, but rank 0 evaluate()",
    "bad argument": "ValueError: max_steps must be at least 1, got 0",
    "drift": "RuntimeError: rank 1 drifted apart from rank 0 before the end of outer step 2",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ends")


@pytest.fixture(scope="module")
def done(run, folder):
    return run(2, "ends.py", folder)


@pytest.fixture(scope="module")
def seen(done, folder):
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", STEPS)
def test_all_stop_after_the_same_step(seen, name):
    step, reason = STEPS[name]
    first, second = (of_rank[name] for of_rank in seen)
    assert first["step"] == second["step"] == (step or first["step"])
    assert first["reason"] == second["reason"] == reason
    assert 0 < first["step"] < 15 or name == "stop at the start"
    np.testing.assert_array_equal(first["x"], second["x"])


@pytest.mark.parametrize(("name", "raised"), [("SIGTERM", "SystemExit: 143"), ("SIGINT", "KeyboardInterrupt: SIGINT")])
def test_a_signal_to_one_ends_all_with_one_checkpoint(seen, folder, name, raised):
    assert [of_rank[name]["raised"].startswith(raised) for of_rank in seen] == [True, True]
    assert sorted(path.name for path in (folder / name).iterdir()) == ["last.npz", "step-00000003.npz"]


def test_a_task_that_one_rank_alone_has_is_left_out_by_all(seen):
    assert [of_rank["task skipped"]["reason"] for of_rank in seen] == ["non_finite", "non_finite"]
    assert [of_rank["task skipped"]["step"] for of_rank in seen] == [2, 2]


@pytest.mark.parametrize("name", REFUSED)
def test_all_refuse_with_the_same_words(seen, name):
    first, second = (of_rank[name]["raised"] for of_rank in seen)
    assert first == second
    assert first.startswith(REFUSED[name])


def test_an_evaluation_of_loaders_of_different_length_is_refused(seen):
    first, second = (of_rank["evaluation"]["raised"] for of_rank in seen)
    assert first == second
    assert first.startswith("loader gave 3, 2 batches on ranks 0 to 1")


def test_rank_0_alone_writes_and_all_call_users_hooks(seen, done, folder):
    first, second = (of_rank["writers"] for of_rank in seen)
    assert first["hooks"] == second["hooks"] == [1, 2, 3, 4, 5, 6]
    with (folder / "logs" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == first["hooks"]
    assert [float(row["ul_loss"]) for row in rows] == first["history"] == second["history"]
    lines = (folder / "logs" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines if "step" in json.loads(line)] == first["hooks"]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["last.npz", "step-00000006.npz"]
    assert (folder / "saved.npz").is_file()
    assert done.stderr.count("first step; Jittor compiles") == 1


def test_rank_0_alone_warns(seen):
    assert any("SIGTERM ended fit" in line for line in seen[0]["SIGTERM"]["logged"])
    assert not any("ended fit" in line for line in seen[1]["SIGTERM"]["logged"])
