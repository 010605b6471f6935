"""The nearest valid spelling stands in the error for a misspelt argument, of Python or of the command line."""

import inspect
import re

from jboat import BilevelTrainer
from jboat.__main__ import main
from jboat.callbacks import NaNGuard
import pytest
from small_trainers import make


def test_arguments_of_fit_and_of_the_trainer():
    with pytest.raises(TypeError, match=r"fit\(\) got .* 'max_step'\. Did you mean 'max_steps'\?"):
        make().fit({}, {}, max_step=3)
    with pytest.raises(TypeError, match=r"__init__\(\) got .* 'lower_iter'\. Did you mean 'lower_iters'\?"):
        BilevelTrainer(None, None, lower_iter=3)
    assert "max_steps" in inspect.signature(BilevelTrainer.fit).parameters


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian", "run.toml"], "invalid choice: 'trian' .*Did you mean 'train'"),
        (["completion", "bsh"], "invalid choice: 'bsh' .*Did you mean 'bash'"),
        (["train", "run.toml", "--sett", "seed=1"], "usage: jboat train .*--sett seed=1.* Did you mean '--set'"),
        (["inspect", "a.npz", "b.npz"], "unrecognized arguments: b.npz\\n$"),
    ],
)
def test_words_of_the_command_line(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert re.search(said, capsys.readouterr().err, re.DOTALL)


def test_a_single_callback_is_no_list():
    with pytest.raises(TypeError, match=r"callbacks must be a list .*write \[NaNGuard\(\.\.\.\)\]"):
        make(callbacks=NaNGuard())
