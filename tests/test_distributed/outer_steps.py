"""Every kind of outer step on this rank's part of the samples; run in one process, and by several under ``mpirun``.

Called with a folder, and the names of cases or nothing for all: what was found goes to the file ``RANK.npz`` in it.
"""

from pathlib import Path
import sys

sys.path.insert(0, str(Path(__file__).parents[1]))

from jboat import BilevelTrainer
from jboat.backend import ranks
from jboat.outer_step import mean
from jboat.trainers.outer_step.method import Events
import jittor as jt
import numpy as np
from test_distributed.sampled import Normalised, SampledClassifier, SampledQuadratic, part

STEPS, K, LR, M = 5, 10, 0.1, 4
SECTIONS = {
    "CG": {"k": 40, "tolerance": 1e-7},
    "NS": {"k": 10, "tolerance": 0.0},
    "FD": {"r": 0.1},
    "RGT": {"truncate_iter": M},
    "GDA": {"alpha_init": 0.4, "alpha_decay": 0.9},
    "IAD": {"proximal": 0.7},
    "DI": {"lr": 0.1},
    "DM": {"tau": 0.3, "p": 2.0, "mu0": 0.6, "eta0": 0.8},
    "VFO": {"y_hat_lr": 0.2, "u1": 0.7},
    "MESO": {"eta": 0.2, "gamma_1": 0.5, "c0": 3.0},
    "PGDO": {"y_hat_lr": 0.2, "gamma_init": 2.0},
}


def quadratic(*, optimizer=None, replay=0, penalty="value", **operators):
    """A trainer of the quadratic."""
    na_op = operators.get("na_op", ())
    first_order = "fo_op" in operators or "DM" in operators.get("gm_op", ())
    problem = SampledQuadratic(same_dims="IAD" in na_op, **({"coupling": 0.3, "rho": 1.0} if first_order else {}))
    ul_model, ll_model = problem.models()
    sections = {**SECTIONS, "RAD": {"remat_every": replay}, "PGDO": {**SECTIONS["PGDO"], "penalty": penalty}}
    trainer = BilevelTrainer(
        ll_model,
        ul_model,
        problem.f,
        problem.F,
        ll_optimizer=(optimizer or jt.optim.SGD)(ll_model.parameters(), LR),
        ul_optimizer=jt.optim.SGD(ul_model.parameters(), 0.05),
        lower_iters=K,
        solver_config=sections,
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
    )
    return problem, trainer


def chain(gm_op, na_op, **kwargs):
    return lambda: quadratic(gm_op=gm_op.split(), na_op=na_op.split(), **kwargs)


def first_order(fo_op, **kwargs):
    return lambda: quadratic(fo_op=fo_op, **kwargs)


CASES = {
    "RAD": chain("NGD", "RAD"),
    "RAD, rebuilt": chain("NGD", "RAD", replay=3),
    "RAD, Adam": chain("NGD", "RAD", optimizer=jt.optim.Adam),
    "RAD, GDA, DI, PTT": chain("GDA DI NGD", "PTT RAD"),
    "RGT": chain("NGD", "RGT RAD"),
    "CG": chain("NGD", "CG"),
    "CG, GDA": chain("GDA NGD", "CG"),
    "NS": chain("NGD", "NS"),
    "FD": chain("NGD", "FD"),
    "IGA": chain("NGD", "IGA"),
    "IAD": chain("NGD", "IAD"),
    "IAD, FOA": chain("NGD", "FOA IAD"),
    "IAD, CG": chain("NGD", "IAD CG"),
    "DM": chain("DM", "RAD"),
    "DM, GDA, CG": chain("GDA DM", "CG"),
    "VFO": first_order("VFO"),
    "PGDO": first_order("PGDO"),
    "PGDO, gradient": first_order("PGDO", penalty="gradient"),
    "MESO": first_order("MESO"),
    "MLP, RAD": classifier,
    "MLP, RAD, Adam": lambda: classifier(optimizer=lambda p: jt.optim.Adam(p, 0.05, eps=1e-2)),
    "MLP, CG": lambda: classifier(na_op=("CG",)),
    "BatchNorm": lambda: classifier(Normalised),
}


def outer_steps(name, ll_shares=None, ul_shares=None):
    """The first gradient of x and five steps' way, as arrays by name."""
    problem, trainer = CASES[name]()
    ll_batch, ul_batch = problem.batches()
    pair = part(ll_batch, ll_shares), part(ul_batch, ul_shares)
    run, found, numbers = trainer.current_run, {}, []
    for step in range(STEPS):
        run.problem.begin_step()
        before = ranks.traffic()
        outer = mean(run.step([pair], Events()))
        sent = [b - a for a, b in zip(before, ranks.traffic(), strict=True)]
        if step == 0:
            found["gradient"] = np.concatenate([g.numpy().ravel() for g in outer.gradients])
            found["y"] = np.concatenate([y.numpy().ravel() for y in outer.ll_parameters])
        numbers.append([outer.upper_loss, outer.lower_loss, *outer.diagnostics.values()])
        found["traffic"] = np.array(sent)
        run.move(outer)
        trainer.state.step += 1
    found["numbers"] = np.array(numbers)
    for variable, value in trainer.values().items():
        found[variable] = value
    return found


def main(folder, names):
    found = {}
    for name in names or CASES:
        for key, value in outer_steps(name).items():
            found[f"{name}/{key}"] = value
    np.savez(Path(folder) / f"{ranks.rank()}.npz", **found)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
