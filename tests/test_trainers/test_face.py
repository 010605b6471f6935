"""What a user sees of the trainer, what callbacks may ask of its run, and where outer steps differ by method."""

import ast
from functools import partial
import inspect
from pathlib import Path

from jboat import BilevelTrainer
from jboat.callbacks import LambdaCallback
from jboat.trainers.outer_step.method import OuterMethod
from jboat.trainers.persistence import archive
from jboat.trainers.run import Run
from jboat.trainers.trainer_state import Phase
import pytest
import small_trainers

ROOT = Path(__file__).parents[2]
FOR_USERS = {
    *("fit", "evaluate", "hypergradient", "save_checkpoint", "load_checkpoint", "from_config", "configuration"),
    *("ll_objective", "ul_objective", "evaluation_step", "evaluation_batch_size", "configure_optimizers"),
    *("values", "set_values", "gm_op", "na_op", "fo_op", "sl_op", "initialization", "auxiliary"),
    *("log", "summary", "save_weights"),
}
FOR_CALLBACKS = {
    *("pairs", "loaded_from", "method", "failure_of", "value", "unrolled_value", "lower_gradient_norm"),
    *("measured_values", "evaluates_after", "folder_for", "steps_per_epoch", "kernel_messages"),
}


make = partial(small_trainers.make, lower_iters=3)


def test_the_trainer_has_methods_for_users_alone():
    assert {name for name in vars(BilevelTrainer) if not name.startswith("_")} == FOR_USERS
    documented = inspect.getdoc(BilevelTrainer)
    own = {name for name in vars(make()) if not name.startswith("_")} - set(
        inspect.signature(BilevelTrainer).parameters
    )
    assert own == {"state", "history", "current_run"}
    assert all(f"    {name}:" in documented for name in own)


def test_callbacks_ask_a_run_for_what_its_page_names():
    first = inspect.getdoc(Run).split("The rest")[0]
    assert all(name in first for name in FOR_CALLBACKS)
    asked = set()
    for path in (ROOT / "callbacks").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                owner = ast.unparse(node.value)
                assert not (owner == "trainer" and node.attr.startswith("_")), f"{path.name}: trainer.{node.attr}"
                if owner in ("trainer.current_run", "run"):
                    asked.add(node.attr)
    assert asked <= FOR_CALLBACKS
    assert len(asked) > 5


@pytest.mark.parametrize(
    ("kwargs", "name", "loops", "keeps"),
    [
        ({}, "RAD", True, ()),
        ({"gm_op": ["GDA", "DI", "NGD"], "na_op": ["PTT", "CG"]}, "CG", True, ()),
        ({"gm_op": ["DM"]}, "DM", False, ("multiplier",)),
        ({"fo_op": "VFO"}, "VFO", False, ()),
        ({"fo_op": "MESO"}, "MESO", False, ("theta",)),
    ],
)
def test_a_method_is_chosen_once(kwargs, name, loops, keeps):
    trainer = make(**kwargs)
    method = trainer.current_run.method
    assert isinstance(method, OuterMethod)
    assert (method.name, method.has_lower_loop, tuple(method.keeps)) == (name, loops, keeps)
    trainer.fit({}, {}, max_steps=2)
    assert trainer.current_run.method is method
    assert tuple(trainer.auxiliary) == keeps


def test_phases_are_kept_under_the_names_they_always_had(tmp_path):
    """``last.npz`` of older runs is read by these values."""
    names = ["start", "next", "step", "step evaluated", "epoch", "epoch evaluated", "epoch end"]
    assert [phase.value for phase in Phase] == names
    seen = {}

    def save(trainer, state):
        path = tmp_path / f"{len(seen)}.npz"
        trainer.save_checkpoint(path)
        seen[path] = state.phase

    hooks = ("on_step_start", "on_step_end", "on_evaluate_end", "on_epoch_start", "on_epoch_end")
    trainer = make(LambdaCallback(**dict.fromkeys(hooks, save)))
    trainer.fit([{}, {}], {}, max_epochs=2, val_loader=[{}], val_every=2)
    assert {*seen.values()} == {Phase.START, Phase.NEXT, Phase.STEP, Phase.STEP_EVALUATED, Phase.EPOCH_END}
    for path, phase in seen.items():
        saved = archive.read(path)["state"]["phase"]
        assert type(saved) is str
        assert saved == phase.value
        again = make(LambdaCallback(**dict.fromkeys(hooks, save)))
        again.load_checkpoint(path)
        assert again.state.phase is phase
