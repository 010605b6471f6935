"""Programs of several ranks that fail in the way that the first argument names."""

import os
from pathlib import Path
import signal
import sys
import time

from jboat import BilevelTrainer
from jboat.backend import rank_failures, ranks
from jboat.callbacks import LambdaCallback
import jittor as jt
from test_distributed.fits import PROBLEM, TRAIN, cut, f

WAY, FOLDER = sys.argv[1], Path(sys.argv[2])
rank_failures.WAIT_WITHIN_A_CALL = 1.0
if WAY not in ("raised", "everywhere"):
    rank_failures.WAIT = 4.0


def fails(trainer, state):
    if state.step == 2 and ranks.rank() == 1 and WAY in ("killed", "raised", "caught"):
        (FOLDER / "failed_at").write_text(str(time.time()))
        if WAY == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError("no space left for rank 1")


def evaluates_within(trainer, state):
    if WAY == "within" and ranks.rank() == 0 and state.step == 2:
        (FOLDER / "failed_at").write_text(str(time.time()))
        trainer.evaluate(PROBLEM.val)


def torn_down(trainer, state):
    (FOLDER / f"torn down {ranks.rank()}").touch()


ul_model, ll_model = PROBLEM.models()
trainer = BilevelTrainer(
    ll_model,
    ul_model,
    f,
    PROBLEM.F,
    ll_optimizer=jt.optim.SGD(ll_model.parameters(), 0.3, momentum=0.9),
    ul_optimizer=jt.optim.Adam(ul_model.parameters(), 0.05),
    lower_iters=6,
    callbacks=[LambdaCallback(on_step_start=evaluates_within, on_step_end=fails, teardown=torn_down)],
)
(FOLDER / f"pid {ranks.rank()}").write_text(str(os.getpid()))
while WAY in ("left", "outside") and not (FOLDER / "pid 0").exists():
    time.sleep(0.05)  # rank 0 may start more slowly, and would be ended before it is there
if WAY == "everywhere":
    trainer.fit(cut(TRAIN, 23), PROBLEM.val)
if WAY == "left" and ranks.rank() == 1:
    sys.exit("no data for rank 1")
if WAY == "outside" and ranks.rank() == 1:
    raise OSError("no space left for rank 1")
if WAY == "alone":
    trainer.fit(cut(TRAIN, 8), PROBLEM.val, max_steps=1)
    if ranks.rank() == 0:
        (FOLDER / "failed_at").write_text(str(time.time()))
        trainer.evaluate(PROBLEM.val)
    sys.exit()
try:
    trainer.fit(cut(TRAIN, 8), PROBLEM.val, max_steps=1000)
except OSError:
    if WAY != "caught":
        raise
