"""The page on what jboat changes in a process says all of it."""

from pathlib import Path

from jboat.backend import process_changes, start
from jboat.backend.cuda_toolkit import DOWNLOADS, CudaToolkit
from jboat.trainers.commands import changes
import jittor as jt
from small_trainers import make

PAGE = Path(__file__).parents[2] / "docs" / "changes.md"


def test_the_page_is_what_the_command_prints():
    assert PAGE.read_text() == changes.page() + "\n"


def test_every_variable_that_may_be_set_is_named():
    absent = (*DOWNLOADS, "cudnn", "cufft", "cusparse")
    toolkits = [
        CudaToolkit(Path("/cuda/bin/nvcc"), (), (13, 0), absent=absent, newest_capability=120),
        CudaToolkit(None, ("nvcc",)),
    ]
    settings = [start.settings({}, cuda=toolkit, has_onednn=False) for toolkit in toolkits]
    others = {"python_config_path", start._CHOSEN}
    assert {name for chosen in settings for name in chosen} | others == set(process_changes.ENVIRONMENT)


def test_no_other_function_of_jittor_differs_after_a_fit():
    def functions():
        owners = (jt, jt.nn, jt.Var, jt.pool, jt.optim, jt.init, jt.Function, jt.Module, *jt.nn.__dict__.values())
        found = {}
        for owner in owners:
            if getattr(owner, "__module__", getattr(owner, "__name__", "")).startswith("jittor"):
                found |= {(id(owner), name): value for name, value in vars(owner).items() if callable(value)}
        return found

    before = functions()
    make().fit({}, {}, max_steps=1)
    assert functions() == before
