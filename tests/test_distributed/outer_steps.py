"""Every kind of outer step on this rank's part of the samples; run in one process, and by several under ``mpirun``.

Called with a folder, and the names of cases or nothing for all: what was found goes to the file ``RANK.npz`` in it.
"""

from pathlib import Path
import sys

from jboat import BilevelTrainer
from jboat.backend import ranks
from jboat.callbacks import Callback
import jittor as jt
import numpy as np
from test_distributed.sampled import Normalised, SampledClassifier, SampledQuadratic

STEPS, K, M = 5, 10, 4
LR, UPPER_LR = 0.1, 0.05
SECTIONS = {
    "CG": {"k": 40, "tolerance": 1e-7},
    "NS": {"k": 10, "tolerance": 0.0},
    "NYS": {"k": 8, "rho": 0.1},
    "FD": {"r": 0.1},
    "RGT": {"truncate_iter": M},
    "GDA": {"alpha_init": 0.4, "alpha_decay": 0.9},
    "IAD": {"proximal": 0.7},
    "DI": {"lr": 0.1},
    "DM": {"tau": 0.3, "p": 2.0, "mu0": 0.6, "eta0": 0.8},
    "VFO": {"y_hat_lr": 0.2, "u1": 0.7},
    "MESO": {"eta": 0.2, "gamma_1": 0.5, "c0": 3.0},
    "PGDO": {"y_hat_lr": 0.2, "gamma_init": 2.0},
    "SOBA": {"v_lr": 0.2},
    "F2SA": {"v_lr": 0.2},
}


class Recorder(Callback):
    """What each step's numbers are, and what it sends."""

    def __init__(self):
        self.numbers, self.iterations, self.traffic = [], [], []

    def on_step_start(self, trainer, state):
        self._before = ranks.traffic()

    def on_step_end(self, trainer, state):
        self.traffic.append([now - then for now, then in zip(ranks.traffic(), self._before, strict=True)])
        names = ("ul_loss", "ll_loss", "hypergradient_norm", "ptt_index", "vfo_weight", "dm_residual")
        self.numbers.append([state.metrics.get(name, 0.0) for name in names])
        self.iterations.append(sum(value for name, value in state.metrics.items() if name.endswith("_iterations")))


def quadratic(*, optimizer=None, replay=0, penalty="value", **operators):
    """A trainer of the quadratic, of one that is easier where there is no chain, and then as in ``exact_steps``."""
    na_op, loops = operators.get("na_op", ()), "NGD" in operators.get("gm_op", ())
    tame = {} if loops else {"coupling": 0.3, "rho": 1.0}
    problem = SampledQuadratic(same_dims="IAD" in na_op, **tame)
    ul_model, ll_model = problem.models()
    sections = {**SECTIONS, "RAD": {"remat_every": replay}, "PGDO": {**SECTIONS["PGDO"], "penalty": penalty}}
    trainer = BilevelTrainer(
        ll_model,
        ul_model,
        problem.f,
        problem.F,
        ll_optimizer=(optimizer or jt.optim.SGD)(ll_model.parameters(), LR),
        ul_optimizer=jt.optim.SGD(ul_model.parameters(), UPPER_LR),
        lower_iters=K if loops else 5,
        solver_config=sections,
        callbacks=[Recorder()],
        **operators,
    )
    return problem, trainer


def classifier(kind=SampledClassifier, *, hidden=5, optimizer=None, upper=jt.optim.Adam, na_op=("RAD",)):
    """A trainer of a network with a weight for each sample."""
    problem = kind(hidden=hidden)
    ul_model, ll_model = problem.models()
    ll_var = [p for p in ll_model.parameters() if not p.is_stop_grad()]
    trainer = BilevelTrainer(
        ll_model,
        ul_model,
        problem.f,
        problem.F,
        ll_optimizer=(optimizer or (lambda p: jt.optim.SGD(p, 0.3, momentum=0.9)))(ll_var),
        ul_optimizer=upper(ul_model.parameters(), 0.05),
        lower_iters=6,
        na_op=list(na_op),
        solver_config={"CG": SECTIONS["CG"]},
        callbacks=[Recorder()],
    )
    return problem, trainer


def chain(gm_op, na_op, **kwargs):
    return lambda: quadratic(gm_op=gm_op.split(), na_op=na_op.split(), **kwargs)


def without_lower_loop(**kwargs):
    return lambda: quadratic(**kwargs)


CASES = {
    "RAD": chain("NGD", "RAD"),
    "RAD, rebuilt": chain("NGD", "RAD", replay=3),
    "RAD, Adam": chain("NGD", "RAD", optimizer=lambda p, lr: jt.optim.Adam(p, lr, eps=1e-2)),
    "RAD, GDA, DI, PTT": chain("GDA DI NGD", "PTT RAD"),
    "RGT": chain("NGD", "RGT RAD"),
    "CG": chain("NGD", "CG"),
    "CG, GDA": chain("GDA NGD", "CG"),
    "NS": chain("NGD", "NS"),
    "NYS": chain("NGD", "NYS"),
    "FD": chain("NGD", "FD"),
    "IGA": chain("NGD", "IGA"),
    "IAD": chain("NGD", "IAD"),
    "IAD, FOA": chain("NGD", "FOA IAD"),
    "IAD, CG": chain("NGD", "IAD CG"),
    "DM": without_lower_loop(gm_op=["DM"], na_op=["RAD"]),
    "DM, GDA, CG": without_lower_loop(gm_op=["GDA", "DM"], na_op=["CG"]),
    "VFO": without_lower_loop(fo_op="VFO"),
    "PGDO": without_lower_loop(fo_op="PGDO"),
    "PGDO, gradient": without_lower_loop(fo_op="PGDO", penalty="gradient"),
    "MESO": without_lower_loop(fo_op="MESO"),
    "SOBA": without_lower_loop(sl_op="SOBA"),
    "F2SA": without_lower_loop(sl_op="F2SA"),
    "MLP, RAD": classifier,
    "MLP, RAD, Adam": lambda: classifier(optimizer=lambda p: jt.optim.Adam(p, 0.05, eps=1e-2)),
    "MLP, CG": lambda: classifier(na_op=("CG",)),
    "BatchNorm": lambda: classifier(Normalised),
}


def outer_steps(name):
    """The first gradient of x and five steps' way, as arrays by name."""
    problem, trainer = CASES[name]()
    ll_batch, ul_batch = problem.batches()
    first = trainer.hypergradient(ll_batch, ul_batch)
    trainer.fit(ll_batch, ul_batch, max_steps=STEPS)
    recorder = next(c for c in trainer.callbacks.callbacks if isinstance(c, Recorder))
    return {
        "gradient": np.concatenate([g.numpy().ravel() for g in first.gradients]),
        "y": np.concatenate([y.numpy().ravel() for y in first.ll_parameters]),
        "upper loss": np.array([first.upper_loss]),
        "by y_0": np.concatenate([g.numpy().ravel() for g in first.ll_init_gradient or [jt.zeros(1)]]),
        "numbers": np.array(recorder.numbers),
        "iterations": np.array(recorder.iterations),
        "traffic": np.array(recorder.traffic[-1]),
        **trainer.values(),
    }


def main(folder, names):
    found = {f"{name}/{key}": value for name in names or CASES for key, value in outer_steps(name).items()}
    np.savez(Path(folder) / f"{ranks.rank()}.npz", **found)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
