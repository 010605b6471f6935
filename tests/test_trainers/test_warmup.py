"""``python -m jboat warmup`` compiles what a job needs, and leaves nothing else behind."""

import json
from pathlib import Path
import re
import subprocess
import sys

from jboat.__main__ import main
import pytest

ROOT = Path(__file__).parents[2]
JOB = """
import argparse
import os

from jboat import BilevelTrainer
import jittor as jt


class Point(jt.Module):
    def __init__(self):
        self.at = jt.array([0.1, 0.2, 0.3])


def f(batch, ul_model, ll_model):
    y, x = ll_model.at, ul_model.at
    return (y.sinh() * y.sinh() + x.cosh() * y).sum()


def F(batch, ul_model, ll_model):
    return (ll_model.at.cosh() - ul_model.at).sum()


def batches():
    yield {}


def total(batch, ul_model, ll_model):
    return ll_model.at.asinh().sum()


def trainer(**kwargs):
    return BilevelTrainer(
        ll, ul, f, F, ll_optimizer=jt.optim.SGD(ll.parameters(), 0.1), ul_optimizer=jt.optim.SGD(ul.parameters(), 0.1),
        lower_iters=3, metrics={"total": total}, **kwargs
    )


ll, ul = Point(), Point()
if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--output")
    p.add_argument("--steps", type=int, required=True)
    args = p.parse_args()
    history = trainer(logger_dir=args.output).fit({}, {}, max_steps=args.steps, val_loader={})
    open(os.path.join(args.output, "picture.png"), "w").close()
    print(len(history.rows), "steps")
"""
CONFIG = {
    "ll_model": "job:ll",
    "ul_model": "job:ul",
    "ll_objective": "job:f",
    "ul_objective": "job:F",
    "ll_optimizer": {"class": "SGD", "lr": 0.1},
    "ul_optimizer": {"class": "SGD", "lr": 0.1},
    "ll_loader": "job:batches",
    "ul_loader": "job:batches",
    "lower_iters": 3,
    "callbacks": [
        {"class": "CSVLogger"},
        {"class": "JSONLLogger", "folder": "lines"},
        {"class": "ModelCheckpoint", "dirpath": "checkpoints", "every_n_steps": 1},
    ],
    "logger_dir": "logs",
    "fit": {"max_epochs": 50},
}


@pytest.fixture(autouse=True)
def job(tmp_path, monkeypatch):
    (tmp_path / "job.py").write_text(JOB)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "job", raising=False)


@pytest.mark.alone
def test_a_program_runs_a_few_steps_and_then_compiles_nothing(tmp_path, capsys, loaded_kernels):
    command = ["warmup", "--example", "job.py", "--arguments", "--steps", "1000"]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert "3 steps" in captured.err
    assert "kernels compiled" in captured.out
    loaded_kernels.restart()
    assert main(command) == 0
    assert capsys.readouterr().out.startswith("0 kernels compiled")
    assert loaded_kernels.new() == []
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["config.json", "job.py"]


@pytest.mark.alone
def test_a_configuration_is_warmed_up_without_its_folders(tmp_path, capsys, loaded_kernels):
    assert main(["warmup", "config.json"]) == 0
    assert "3 outer steps" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.is_dir() and path.name != "__pycache__"] == []
    loaded_kernels.restart()
    assert main(["train", "config.json", "--set", "fit.max_epochs=20"]) == 0
    assert (tmp_path / "checkpoints" / "last.npz").exists()
    assert loaded_kernels.new() == []


def test_without_an_argument_it_is_what_the_readme_needs(capsys, loaded_kernels):
    assert main(["warmup"]) == 0
    assert "kernels compiled" in capsys.readouterr().out
    loaded_kernels.restart()
    program = re.search(r"## A complete program.*?```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    exec(compile(program, "README.md", "exec"), {"__name__": "page"})
    assert loaded_kernels.new() == []


def test_arguments_need_an_example(capsys):
    with pytest.raises(SystemExit):
        main(["warmup", "--arguments", "--quick"])
    assert "--example NAME" in capsys.readouterr().err


def test_what_is_not_there(tmp_path, capsys):
    assert main(["warmup", "--example", "job2"]) == 2
    folder = tmp_path.resolve() / "examples"
    wanted = f"no program 'job2' here or in the folder {folder}, of the working directory; there: none"
    assert wanted in capsys.readouterr().err
    assert main(["warmup", "nothing.json"]) == 2


@pytest.mark.parametrize("module", ["jboat.trainers.commands.warmup", "jboat.fast_gradients"])
def test_the_program_itself_may_import_what_needs_jittor_in_any_order(module, users_environment):
    """In the program jboat Jittor starts when it is first used, which may be while any module is imported."""
    code = f"import sys; sys.argv[0] = 'jboat'; import {module}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=users_environment, check=False
    )
    assert done.returncode == 0, done.stderr
