"""A run that checkpoints every step, forked again and again by one process that has imported Jittor.

Each line on standard input is a folder; the answer is the process number of the run, then its exit status.
"""

import os
import sys

from jboat import BilevelTrainer
from jboat.callbacks import ModelCheckpoint
import jittor as jt
import numpy as np

STEPS = 15


class Vector(jt.Module):
    def __init__(self, values):
        self.values = jt.array(np.array(values, dtype="float32"))

    def execute(self):
        return self.values


def f(batch, ul_model, ll_model):
    gap = ll_model() - ul_model() * batch["scale"]
    return 0.5 * (gap * gap).sum()


def F(batch, ul_model, ll_model):
    gap = ll_model() - 1.0
    return 0.5 * (gap * gap).sum()


def batches():
    for scale in np.random.permutation([0.5, 1.0, 1.5, 2.0]):
        yield {"scale": float(scale)}


def run(folder):
    ll_model, ul_model = Vector([0.0, 1.0, 2.0]), Vector([3.0, 1.0, -2.0])
    trainer = BilevelTrainer(
        ll_model,
        ul_model,
        f,
        F,
        ll_optimizer=jt.optim.SGD(ll_model.parameters(), 0.3, momentum=0.5),
        ul_optimizer=jt.optim.Adam(ul_model.parameters(), 0.1),
        lower_iters=2,
        ll_optimizer_state="carry",
        seed=3,
        callbacks=[ModelCheckpoint(folder, every_n_steps=1, save_top_k=2)],
    )
    trainer.fit(batches, {}, max_steps=STEPS, resume_from="last")
    scratch = os.path.join(folder, "unfinished")  # a kill while writing must not look like a result
    with open(scratch, "w") as file:
        for row in trainer.history:
            file.write(f"{row['step']} {row['epoch']} {row['ll_loss']!r} {row['ul_loss']!r}\n")
        file.write(" ".join(v.tobytes().hex() for v in trainer.values().values()))
    os.replace(scratch, os.path.join(folder, "result"))


def answer(number):
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def main():
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                run(line.strip())
            except BaseException as error:
                sys.stderr.write(f"failed: {error!r}\n")
                sys.stderr.flush()
                os._exit(1)
            os._exit(0)
        answer(child)
        answer(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    main()
