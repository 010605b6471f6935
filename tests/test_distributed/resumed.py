"""A run that is saved within an epoch, or goes on from there; every rank writes its end to ``NAME-RANK.npz``."""

from pathlib import Path
import sys

from jboat import BilevelTrainer
from jboat.backend import ranks
from jboat.callbacks import ModelCheckpoint
import jittor as jt
import numpy as np
from test_distributed.fits import PROBLEM, TRAIN, f, shuffled, tasks

FOLDER, NAME, HOW = Path(sys.argv[1]), sys.argv[2], sys.argv[3]


def make(kind, folder):
    ul_model, ll_model = PROBLEM.models()
    if HOW == "resume":  # what a checkpoint has to make good
        ul_model.value.assign(ul_model.value + ranks.rank() + 1.0)
    trainer = BilevelTrainer(
        ll_model,
        ul_model,
        f,
        PROBLEM.F,
        ll_optimizer=jt.optim.Adam(ll_model.parameters(), 0.05),
        ul_optimizer=jt.optim.Adam(ul_model.parameters(), 0.05),
        lower_iters=6,
        ll_optimizer_state="carry",
        callbacks=[ModelCheckpoint(folder, every_n_steps=1, save_top_k=-1)],
        # of the global generators, from which rank 0 draws one
        seed=None if kind == "drawn" else 3,
    )
    if kind == "tasks":
        return trainer, tasks(TRAIN, 3, 8), tasks(PROBLEM.val, 3, 8)
    return trainer, shuffled(TRAIN, 5), shuffled(PROBLEM.val, 7)


found = {}
for kind in ("loaders", "tasks", "drawn"):
    folder = FOLDER / kind
    trainer, ll_loader, ul_loader = make(kind, folder if HOW == "save" else FOLDER / f"{NAME}-{kind}")
    source = folder / "step-00000007.npz" if HOW == "resume" else None
    trainer.fit(ll_loader, ul_loader, max_steps=12, resume_from=source)
    found.update({f"{kind}/{name}": value for name, value in trainer.values().items()})
    found[f"{kind}/ul_loss"] = np.array(trainer.history["ul_loss"])
    if HOW == "resume":
        trainer.fit(ll_loader, ul_loader, max_steps=12, resume_from="last")
        found[f"{kind}/again"] = np.array(trainer.history["ul_loss"])
np.savez(FOLDER / f"{NAME}-{ranks.rank()}.npz", **found)
