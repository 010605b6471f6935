"""Fits that end early on several ranks, none of them by a crash; each rank writes what it saw to ``RANK.json``."""

import json
import logging
import os
from pathlib import Path
import signal
import sys
import time

from jboat import BilevelTrainer
from jboat.backend import ranks
from jboat.callbacks import (
    CSVLogger,
    EarlyStopping,
    JSONLLogger,
    LambdaCallback,
    ModelCheckpoint,
    NaNGuard,
    ProgressBar,
)
from jboat.trainers import lockstep
import jittor as jt
import numpy as np
from test_distributed.fits import PROBLEM, TRAIN, cut, f

FOLDER = Path(sys.argv[1])
RANK = ranks.rank()
seen = {}
logged = []


class Heard(logging.Handler):
    def emit(self, record):
        logged.append(record.getMessage())


logging.getLogger("jboat").addHandler(Heard())


def make(*callbacks, **options):
    ul_model, ll_model = PROBLEM.models()
    return BilevelTrainer(
        ll_model,
        ul_model,
        f,
        PROBLEM.F,
        ll_optimizer=jt.optim.SGD(ll_model.parameters(), 0.3, momentum=0.9),
        ul_optimizer=jt.optim.Adam(ul_model.parameters(), 0.05),
        **{"lower_iters": 6, "seed": 3, **options},
        callbacks=callbacks,
    )


def fit(name, *callbacks, ll_loader=None, ul_loader=None, fits=None, device=None, **options):
    """Fit, and note where it ended and by what; with another device than the one that the trainer says it has."""
    logged.clear()
    trainer, raised = make(*callbacks, **options), None
    trainer._configuration["device"] = device or trainer.device
    try:
        trainer.fit(ll_loader or cut(TRAIN, 8), ul_loader or PROBLEM.val, **{"max_epochs": 5, **(fits or {})})
    except BaseException as error:
        raised = f"{type(error).__name__}: {error}"
    reason = trainer.state.stop_reason
    seen[name] = {
        "raised": raised,
        "step": trainer.state.step,
        "reason": None if reason is None else reason.value,
        "x": trainer.ul_var[0].numpy().tolist(),
        "logged": list(logged),
    }
    return trainer


def on_rank_1(work, at_step):
    def hook(trainer, state):
        if RANK == 1 and state.step == at_step:
            work(trainer)

    return hook


def stop(trainer):
    trainer.state.request_stop()


def kill(number):
    return lambda trainer: os.kill(os.getpid(), number)


fit("stop at a step's end", LambdaCallback(on_step_end=on_rank_1(stop, 4)))
fit("stop at a step's start", LambdaCallback(on_step_start=on_rank_1(stop, 4)))
fit("stop at an epoch's start", LambdaCallback(on_epoch_start=on_rank_1(stop, 3)))
fit("stop at an epoch's end", LambdaCallback(on_epoch_end=on_rank_1(stop, 6)))
fit("stop at the start", LambdaCallback(on_fit_start=on_rank_1(stop, 0)))
slow = LambdaCallback(on_step_start=on_rank_1(lambda trainer: time.sleep(3.0), 3))
fit("max_time", slow, fits={"max_time": 3.0 if RANK == 1 else 1000.0})
fit("EarlyStopping", EarlyStopping("ul_loss", patience=2, mode="max"))
for number in (signal.SIGTERM, signal.SIGINT):
    name = signal.Signals(number).name
    fit(name, LambdaCallback(on_step_start=on_rank_1(kill(number), 2)), ModelCheckpoint(FOLDER / name))

own_hooks = []
writers = [CSVLogger(FOLDER / "logs", times=False), JSONLLogger(FOLDER / "logs"), ProgressBar(disable=False)]
counter = LambdaCallback(on_step_end=lambda trainer, state: own_hooks.append(state.step))
trainer = fit("writers", *writers, counter, ModelCheckpoint(FOLDER / "checkpoints"), fits={"max_epochs": 2})
seen["writers"]["hooks"] = own_hooks
trainer.save_checkpoint(FOLDER / "saved.npz")
trainer.load_checkpoint(FOLDER / "saved.npz")
seen["writers"]["history"] = trainer.history["ul_loss"]

own = np.random.default_rng(RANK)
other_order = lambda: iter([{k: v[own.permutation(24)] for k, v in TRAIN.items()}])  # noqa: E731
shorter = lambda: iter(cut(TRAIN, 8)[: 3 - RANK])  # noqa: E731
fit("other order", ll_loader=other_order)
fit("shorter", ll_loader=shorter)
fit("shorter list", ll_loader=cut(TRAIN, 8)[: 3 - RANK])
fit("small batch", ll_loader=cut(TRAIN, 23))
fit("small upper batch", ul_loader=cut(PROBLEM.val, 23))
fit("other lower_iters", lower_iters=6 + RANK)
fit("no GPU", device="cuda" if RANK == 0 else "cpu")
fit("bad argument", fits={"max_steps": 0})
try:
    make().evaluate(cut(PROBLEM.val, 8)[: 3 - RANK])
except ValueError as error:
    seen["evaluation"] = {"raised": str(error)}

seen["other methods"] = {"raised": None}
try:
    make().evaluate(PROBLEM.val) if RANK == 0 else make().hypergradient(TRAIN, PROBLEM.val)
except RuntimeError as error:
    seen["other methods"]["raised"] = f"RuntimeError: {error}"

poisoned = [[{**TRAIN, "data": TRAIN["data"] * (1.0 if task < 2 else np.inf)} for task in range(3)]] * 2
for name, callbacks in (("task not finite", []), ("task skipped", [NaNGuard("skip", max_skips=1)])):
    fit(name, *callbacks, ll_loader=poisoned, ul_loader=[[PROBLEM.val] * 3])

lockstep.STEPS_BETWEEN_LOOKS = 2
spoil = on_rank_1(lambda trainer: trainer.ul_var[0].assign(trainer.ul_var[0] + 0.01), 2)
fit("drift", LambdaCallback(on_step_end=spoil))

(FOLDER / f"{RANK}.json").write_text(json.dumps(seen))
