"""What a user meets on the command line: completion, programs of any kind to warm up, files of the wrong kind."""

import json
import shutil
import subprocess

from jboat.__main__ import commands_parser, main
from jboat.trainers.commands import completion
import pytest

PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
import small_trainers

assert sys.argv[1:] == ["--quick"], sys.argv
trainer = small_trainers.make()
trainer.fit([{{}}] * 9, {{}}, max_epochs=1)
print(len(trainer.history), "steps")
"""
CONFIG = {
    "ll_model": "of_job:ll",
    "ul_model": "of_job:ul",
    "ll_objective": "of_job:problem.f",
    "ul_objective": "of_job:problem.F",
    "ll_optimizer": {"class": "SGD", "lr": 0.1},
    "ul_optimizer": {"class": "SGD", "lr": 0.1},
    "ll_loader": "of_job:batches",
    "ul_loader": "of_job:batches",
    "lower_iters": 2,
    "fit": {"max_steps": 2},
}
JOB = """
import sys
sys.path.insert(0, {tests!r})
from problems import Quadratic

problem = Quadratic()
ul, ll = problem.models()


def batches():
    yield {{}}
"""


@pytest.fixture
def job(tmp_path, monkeypatch, request):
    tests = str(request.config.rootpath / "tests")
    (tmp_path / "program.py").write_text(PROGRAM.format(tests=tests))
    (tmp_path / "of_job.py").write_text(JOB.format(tests=tests))
    (tmp_path / "run.json").write_text(json.dumps(CONFIG))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "of_job", raising=False)
    return tmp_path


def completed(script, *words):
    """What bash offers for the last of these words."""
    listing = " ".join(f"'{word}'" for word in words)
    code = f'{script}\nCOMP_WORDS=({listing}); COMP_CWORD={len(words) - 1}; _jboat; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "--norc", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_commands_options_and_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.toml").write_text("")
    script = completion.script("bash", commands_parser())
    assert completed(script, "jboat", "in") == ["inspect"]
    assert {"train", "validate", "warmup", "doctor", "completion", "--version"} <= set(completed(script, "jboat", ""))
    assert completed(script, "jboat", "ops", "--m") == ["--markdown"]
    assert completed(script, "jboat", "train", "jo") == ["job.toml"]
    assert "job.toml" not in completed(script, "jboat", "ops", "")
    assert completed(script, "jboat", "completion", "z") == ["zsh"]


def test_without_a_command_the_commands_are_listed(capsys):
    assert main([]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert all(f"\n    {name} " in printed.err for name in ("doctor", "train", "warmup", "inspect"))


def test_the_command_prints_the_script(capsys):
    assert main(["completion", "zsh"]) == 0
    printed = capsys.readouterr().out
    assert printed == completion.script("zsh", commands_parser())
    assert "bashcompinit" in printed
    if shutil.which("zsh"):
        code = f"autoload -U +X compinit && compinit -u; {printed}"
        subprocess.run(["zsh", "-f", "-c", code], check=True)
    with pytest.raises(SystemExit):
        main(["completion", "fish"])


def test_a_program_that_knows_no_output_is_warmed_up(job, capsys):
    assert main(["warmup", "--example", "program.py", "--arguments", "--quick"]) == 0
    assert "3 steps" in capsys.readouterr().err


def test_warmup_names_no_folder_that_is_gone(job, capsys):
    assert main(["warmup", "run.json"]) == 0
    told = capsys.readouterr()
    assert "outer steps" in told.err
    assert "results in" not in told.err + told.out
    assert "/tmp" not in told.out


def test_train_prints_the_summary_and_the_results(job, capsys):
    assert main(["train", "run.json"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("BilevelTrainer on cpu\n  lower model   Point: 8 numbers trained in 1 array\n")
    assert "  a step costs  NGD: 2 lower gradients" in printed
    assert "2 outer steps: " in printed
    assert "results in runs/train" in printed
    assert (job / "runs" / "train" / "metrics.csv").exists()


@pytest.mark.parametrize("name", ["run.yaml", "run.YML"])
@pytest.mark.parametrize("command", ["train", "validate"])
def test_yaml_is_refused_by_name(command, name, tmp_path, capsys):
    (tmp_path / name).write_text("lower_iters: 3\n")
    assert main([command, str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert (
        error
        == f"error: {tmp_path / name}: jboat reads no YAML, only .json and .toml files; write it as one of these\n"
    )


@pytest.mark.parametrize(
    ("fit", "steps"), [({"fast_dev_run": 2}, 0), ({"max_epochs": 3, "limit_batches": 1, "progress": False}, 3)]
)
def test_the_new_arguments_of_fit_stand_in_configurations(fit, steps, job, capsys):
    (job / "run.json").write_text(json.dumps({**CONFIG, "fit": fit}))
    assert main(["validate", "run.json"]) == 0
    if steps:
        assert main(["train", "run.json"]) == 0
        assert f"{steps} outer steps: " in capsys.readouterr().out
