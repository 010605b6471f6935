"""What needs no Jittor does not start it."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest


def run(tmp_path, users_environment, *arguments, status=0):
    """What a command prints, in a home where Jittor was never started, and is not."""
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    environment = {**users_environment, "HOME": str(home)}
    environment.pop("JITTOR_HOME", None)
    command = [sys.executable, "-m", "jboat", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == status, done.stderr
    assert list(home.iterdir()) == []
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--help"], "validate"),
        (["--version"], "jboat 0."),
        (["ops"], "Franceschi"),
        (["ops", "--chains"], "NGD             RAD"),
        (["ops", "--markdown"], "# Operators"),
        (["callbacks"], "## Signatures"),
        (["train", "--help"], "--set KEY=VALUE"),
        (["validate", "--help"], "--set KEY=VALUE"),
        (["warmup", "--help"], "--example NAME"),
    ],
)
def test_commands_that_only_tell(arguments, said, tmp_path, users_environment):
    printed, _ = run(tmp_path, users_environment, *arguments)
    assert said in printed


def test_validate_of_a_file_that_names_no_object(tmp_path, users_environment):
    """BOAT's files name none, nor do the settings that a program adds its objects to."""
    config = {"lower_iters": 0, "na_op": ["RADD"], "solver_config": {"CG": {"k": 0}}, "devise": "cpu"}
    (tmp_path / "run.json").write_text(json.dumps(config))
    _, errors = run(tmp_path, users_environment, "validate", "run.json", status=2)
    for fault in ("lower_iters", "RADD", "'k' of CG", "unknown key 'devise'", "'ll_model' is missing"):
        assert fault.replace("'k' of CG", "k of CG") in errors


def test_what_is_not_there(tmp_path, users_environment):
    """It is told before Jittor compiles for minutes."""
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "job.py").touch()
    _, errors = run(tmp_path, users_environment, "warmup", "--example", "jab", status=2)
    assert (
        f"no program 'jab' here or in the folder {tmp_path / 'examples'}, of the working directory; there: job"
        in errors
    )
    for command in ("warmup", "train", "validate"):
        _, errors = run(tmp_path, users_environment, command, "nothing.json", status=2)
        assert "nothing.json" in errors


def test_inspect(tmp_path, users_environment):
    np.savez(tmp_path / "w.npz", weight=np.zeros((3, 6), "float32"))
    printed, _ = run(tmp_path, users_environment, "inspect", "w.npz")
    assert "  weight  float32 [3, 6]" in printed
    _, errors = run(tmp_path, users_environment, "inspect", sys.executable, status=2)
    assert errors.startswith(f"error: {sys.executable} is damaged, or no .npz file")
    assert "Traceback" not in errors


def test_the_trainer_does_not_import_tensorboardx(users_environment):
    found = "sorted({'tensorboardX', 'matplotlib'} & set(sys.modules))"
    code = f"import sys; from jboat import BilevelTrainer; print({found})"
    environment = {**users_environment, "HOME": os.environ["HOME"]}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "[]"
