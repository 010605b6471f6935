"""Whole fits with every kind of loader; each rank writes what it found to ``RANK.npz`` in the folder given."""

from pathlib import Path
import sys

from jboat import BilevelTrainer
from jboat.backend import ranks
from jboat.callbacks import HypergradientCheck, LambdaCallback
import jittor as jt
from jittor import nn
import numpy as np
from problems import Classifier

STEPS = 5
PROBLEM = Classifier()
TRAIN = {**PROBLEM.train, "index": np.arange(Classifier.SAMPLES)}


def f(batch, ul_model, ll_model):
    losses = nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"], reduction="none")
    return (losses * ul_model().sigmoid()[batch["index"] if "index" in batch else batch["target"]]).mean()


def per_class(batch, ul_model, ll_model):
    """An objective that reads an entry with one number a class, which is none of a sample's."""
    losses = nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"], reduction="none")
    weights = batch["prior"][batch["target"]] * ul_model().sigmoid()[batch["index"]]
    return (losses * weights).sum() / batch["batch_size"]


def accuracy(batch, ul_model, ll_model):
    return float((ll_model(batch["data"]).numpy().argmax(1) == batch["target"].numpy()).mean())


def cut(arrays, size, **entries):
    samples = len(arrays["target"])
    return [{**{k: v[i : i + size] for k, v in arrays.items()}, **entries} for i in range(0, samples, size)]


def sized(arrays, size):
    prior = np.array([0.5, 1.0, 2.0], np.float32)
    return [{**batch, "prior": prior, "batch_size": len(batch["target"])} for batch in cut(arrays, size)]


def shuffled(arrays, size):
    def loader():
        order = np.random.permutation(len(arrays["target"]))
        yield from cut({k: v[order] for k, v in arrays.items()}, size)

    return loader


def reusing_its_arrays(arrays, size):
    def loader():
        buffers = {k: np.empty_like(v[:size]) for k, v in arrays.items()}
        for batch in cut(arrays, size):
            for k, v in batch.items():
                buffers[k][: len(v)] = v
            yield {k: buffers[k][: len(v)] for k, v in batch.items()}

    return loader


class Pairs(jt.dataset.Dataset):
    """Jittor's own way, which splits each batch by itself under MPI and pads the last."""

    def __init__(self, arrays, size):
        super().__init__()
        self._arrays = arrays
        self.set_attrs(batch_size=size, total_len=len(arrays["target"]), shuffle=True)

    def __getitem__(self, i):
        return self._arrays["data"][i], self._arrays["target"][i]


def as_vars(batches):
    return [{k: jt.array(v) for k, v in batch.items()} for batch in batches]


def tasks(arrays, number, size):
    batches = cut(arrays, size)
    return [batches[i : i + number] for i in range(0, len(batches), number)]


def checks():
    return [HypergradientCheck(every_n_steps=2, directions=2)]


def last_rank_leaves_out(trainer, state, result):
    result.skip = state.step == 1 and ranks.rank() == ranks.size() - 1


CASES = {
    "one batch": lambda: (TRAIN, PROBLEM.val, {}),
    "list": lambda: (cut(TRAIN, 10), cut(PROBLEM.val, 8), {}),
    "pairs": lambda: ([tuple(PROBLEM.train.values())], [tuple(PROBLEM.val.values())], {}),
    "shuffled": lambda: (shuffled(TRAIN, 10), shuffled(PROBLEM.val, 7), {}),
    "fresh": lambda: (shuffled(TRAIN, 5), cut(PROBLEM.val, 8), {"lower_batches": "fresh"}),
    "one array for all": lambda: (reusing_its_arrays(TRAIN, 5), PROBLEM.val, {"lower_batches": "fresh"}),
    "Dataset": lambda: (Pairs(PROBLEM.train, 10), Pairs(PROBLEM.val, 7), {}),
    "Vars": lambda: (as_vars(cut(TRAIN, 10)), as_vars([PROBLEM.val]), {}),
    "sized": lambda: (sized(TRAIN, 10), PROBLEM.val, {"ll_objective": per_class}),
    "accumulate": lambda: (cut(TRAIN, 8), cut(PROBLEM.val, 8), {"accumulate": 2}),
    **{
        method: lambda method=method: (cut(TRAIN, 10), cut(PROBLEM.val, 8), {"sl_op": method, "lower_iters": 1})
        for method in ("SOBA", "SABA", "F2SA", "STOCBIO")
    },
    "checked": lambda: (cut(TRAIN, 10), cut(PROBLEM.val, 8), {"callbacks": checks()}),
    "tasks, checked": lambda: (tasks(TRAIN, 3, 8), tasks(PROBLEM.val, 3, 8), {"callbacks": checks()}),
    "tasks": lambda: (tasks(TRAIN, 3, 8), tasks(PROBLEM.val, 3, 8), {}),
    "tasks, carried": lambda: (tasks(TRAIN, 4, 3), tasks(PROBLEM.val, 4, 3), {"ll_optimizer_state": "carry"}),
    "tasks, together": lambda: (tasks(TRAIN, 5, 3), tasks(PROBLEM.val, 5, 3), {"tasks_together": 2}),
    "tasks, one left out": lambda: (
        tasks(TRAIN, 3, 8),
        tasks(PROBLEM.val, 3, 8),
        {"callbacks": [LambdaCallback(on_hypergradient_end=last_rank_leaves_out)]},
    ),
    "parts": lambda: (cut(TRAIN, 10), cut(PROBLEM.val, 8), {"lower_micro_batches": 4}),
    "tasks, DI": lambda: (tasks(TRAIN, 3, 8), tasks(PROBLEM.val, 3, 8), {"gm_op": ["DI", "NGD"]}),
}


def fitted(name):
    ll_loader, ul_loader, options = CASES[name]()
    ul_model, ll_model = PROBLEM.models()
    if ranks.rank() == 1:  # as where each rank initialises its own
        ll_model.weight.assign(ll_model.weight + 1.0)
    trainers = []

    def logged(batch, ul_model, ll_model):
        loss = PROBLEM.F(batch, ul_model, ll_model)
        trainers[0].log("logged", loss)
        return loss

    upper = logged if name == "list" else PROBLEM.F  # its ranks have unequal parts
    options = {"lower_iters": 6, "ll_objective": f, "ul_objective": upper, **options}
    trainer = BilevelTrainer(
        ll_model,
        ul_model,
        ll_optimizer=jt.optim.SGD(ll_model.parameters(), 0.3, momentum=0.9),
        ul_optimizer=jt.optim.Adam(ul_model.parameters(), 0.05),
        metrics={"accuracy": accuracy},
        seed=3,
        **options,
    )
    trainers.append(trainer)
    whole = PROBLEM.val
    trainer.fit(ll_loader, ul_loader, max_steps=STEPS, val_loader=cut(whole, 10), val_every=2)
    found = {f"{name}/{key}": value for key, value in trainer.values().items()}
    for metric in ("ul_loss", "ll_loss", "hypergradient_norm", "val_ul_loss", "val_accuracy"):
        found[f"{name}/{metric}"] = np.array(trainer.history[metric])
    if name == "list":
        found[f"{name}/logged"] = np.array(trainer.history["logged"])
    if "checked" in name:
        for metric in ("hypergradient_cosine", "hypergradient_verdict", "lower_gradient_norm"):
            found[f"{name}/{metric}"] = np.array(trainer.history[metric])
    found[f"{name}/evaluated"] = np.array(list(trainer.evaluate(cut(whole, 23)).values()))  # whose last has one sample
    if name == "one batch":
        found[f"{name}/hypergradient"] = trainer.hypergradient(TRAIN, PROBLEM.val).gradients[0].numpy()
    if name == "tasks":
        (ll_batch, _), (ul_batch, _) = tasks(TRAIN, 3, 4), tasks(PROBLEM.val, 3, 4)
        found[f"{name}/hypergradient"] = trainer.hypergradient(ll_batch, ul_batch).gradients[0].numpy()
        supports = reusing_its_arrays(TRAIN, 8)
        measured = trainer.evaluate(lambda: ([(support, PROBLEM.val)] for support in supports()))
        found[f"{name}/measured"] = np.array(list(measured.values()))
    return found


if __name__ == "__main__":
    found = {}
    for name in sys.argv[2:] or CASES:
        found.update(fitted(name))
    np.savez(Path(sys.argv[1]) / f"{ranks.rank()}.npz", **found)
