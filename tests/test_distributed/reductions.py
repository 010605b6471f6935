"""What ranks tell each other; run by several under ``mpirun``, with a folder for what each of them finds."""

import gc
import json
import os
from pathlib import Path
import sys
import zlib

from jboat import BilevelTrainer, autodiff, levels
from jboat.backend import ranks, replicated
import jittor as jt
import numpy as np
from problems import Point
from test_distributed.sampled import SampledClassifier, SampledQuadratic

RANK, SIZE = ranks.rank(), ranks.size()


def numbers():
    """Gathers, sums and means of numbers, which are float64 all the way."""
    return {
        "gathered": ranks.gathered([RANK + 0.25, 1e300 * RANK]),
        "sum": ranks.sum_of([1.0 + RANK, 0.1]),
        "mean": ranks.mean_of([float(RANK)], weight=RANK + 1),
        "without rank 0": ranks.mean_of([float("nan") if RANK == 0 else 3.0], weight=float(RANK > 0)),
        "bytes": ranks.broadcast_bytes(b"said by %d" % RANK, root=SIZE - 1).decode(),
        "nothing": ranks.broadcast_bytes(b"").decode(),
    }


def variables():
    """Broadcast to the bit, whatever the type, and the mean of a list."""
    held = {
        "float32": jt.array(np.full(3, RANK + 0.1, np.float32)),
        "float64": jt.array(np.full((2, 2), RANK + 0.1), dtype="float64"),
        "int64": jt.array(np.array([2**40 + RANK], np.int64), dtype="int64"),
        "bool": jt.array(np.array([RANK == SIZE - 1])),
        "empty": jt.array(np.zeros((0, 2), np.float32)),
    }
    held["stopped"] = jt.array(np.array([float(RANK)], np.float32)).stop_grad()
    ranks.broadcast(list(held.values()), root=SIZE - 1)
    wide = [jt.ones((2, 3)) * RANK, jt.array([1.0, 2.0]), jt.zeros((0, 3)), jt.array(np.array([0.1]), dtype="float64")]
    half = jt.array(np.array([0.5 * RANK, 1.0], np.float16))
    return {
        "broadcast": {name: v.numpy().tolist() for name, v in held.items()},
        "dtypes": {name: str(v.dtype) for name, v in held.items()},
        "stop_grad": {name: v.is_stop_grad() for name, v in held.items()},
        "mean": [v.numpy().tolist() for v in ranks.mean([*wide, half])],
        "mean's dtypes": [str(v.dtype) for v in ranks.mean([*wide, half])],
    }


def derivatives():
    """Up to the fourth derivative of ``sum over ranks of a (w_0^5).sum() + (w_1^3 w_2).sum()``, a = rank + 1.

    The list holds Vars of two dtypes and three shapes; a second call, added to it, leaves some of them out.
    """
    w = [jt.array([[1.0, 2.0], [0.5, -1.0]]), jt.array([1.5, -2.0]), jt.array([3.0])]
    a = float(RANK + 1)
    first, second = replicated.shared(w), replicated.shared(w)
    here = a * (first[0] ** 5).sum() + (first[1] ** 3 * first[2]).sum()
    (total,) = replicated.summed([here])
    (other,) = replicated.summed([a * (second[1] ** 2).sum()])
    value, found = total + other, {"value": (total + other).item()}
    gradient = autodiff.grad(value, w)
    for order in range(1, 5):
        found[f"order {order}"] = [g.numpy().tolist() for g in gradient]
        gradient = autodiff.grad(sum(g.sum() for g in gradient), w)
    return found


def traffic():
    """Of the derivatives by some of the variables only what they need is reduced, and it is counted."""
    x, y = [Point([1.0, 2.0]).value, jt.array([[1.0, 2.0, 3.0]])], [jt.array([0.5, 0.25])]
    here_x, here_y = replicated.shared(x), replicated.shared(y)
    (total,) = replicated.summed([(here_x[0] * here_y[0]).sum() ** 3 + here_x[1].sum()])
    found = {}
    for name, wanted in (("x", x), ("y", y), ("both", [*x, *y])):
        before = ranks.traffic()
        jt.sync(autodiff.grad(total, wanted))
        found[name] = [b - a for a, b in zip(before, ranks.traffic(), strict=True)]
    return found


def executed():
    """How many reductions Jittor has run between two calls, by its own profiler, and how many were counted."""
    w = [jt.array([1.0, 2.0]), jt.array([[1.0, 2.0]])]
    (total,) = replicated.summed([sum((v**3).sum() for v in replicated.shared(w))])
    with jt.profile_scope() as report:
        before = ranks.traffic()
        gradient = autodiff.grad(total, w)
        del total  # what is held is computed too
        jt.sync(autodiff.vjp(gradient, w, [jt.ones_like(v) for v in w]))
        counted = ranks.traffic().reductions - before.reductions
    runs = sum(int(row[2]) for row in report if "all_reduce" in str(row[0]))
    return {"run": runs, "counted": counted}


def alive():
    """How many Vars are alive after some steps, and after more."""
    quadratic, found = SampledQuadratic(), []
    ul_model, ll_model = quadratic.models()
    trainer = BilevelTrainer(
        ll_model,
        ul_model,
        quadratic.f,
        quadratic.F,
        ll_optimizer=jt.optim.SGD(ll_model.parameters(), 0.1, momentum=0.9),
        ul_optimizer=jt.optim.SGD(ul_model.parameters(), 0.01),
        lower_iters=3,
    )
    for _ in range(3):
        trainer.fit(*quadratic.batches(), max_steps=5)
        gc.collect()
        found.append(jt.number_of_lived_vars())
    return {"alive": found[1:]}


def kernels():
    """How many kernels a network's steps load at first, and then for other numbers of lower steps."""
    folder, counts = os.path.join(jt.flags.cache_path, "jit", ""), []

    def loaded():
        jt.sync_all(True)
        lines = Path("/proc/self/maps").read_text().splitlines()
        return {line.split()[-1] for line in lines if folder in line and line.endswith(".so")}

    seen = loaded()
    for lower_iters in (3, 5, 2):
        problem = SampledClassifier(hidden=5)
        ul_model, ll_model = problem.models()
        BilevelTrainer(
            ll_model,
            ul_model,
            problem.f,
            problem.F,
            ll_optimizer=jt.optim.SGD(ll_model.parameters(), 0.1, momentum=0.9),
            ul_optimizer=jt.optim.SGD(ul_model.parameters(), 0.1),
            lower_iters=lower_iters,
        ).fit(*problem.batches(), max_steps=2)
        counts.append(len(loaded() - seen))
        seen = loaded()
    return counts


def drawn():
    """What objectives draw at random on each rank, and whether the variables are the same afterwards."""
    quadratic, noise = SampledQuadratic(), []
    ul_model, ll_model = quadratic.models()

    def noisy(batch, ul_model, ll_model):
        noise.append(jt.rand(4))
        return quadratic.f(batch, ul_model, ll_model) + (noise[-1] * ll_model()[:4]).sum()

    trainer = BilevelTrainer(
        ll_model,
        ul_model,
        noisy,
        quadratic.F,
        ll_optimizer=jt.optim.SGD(ll_model.parameters(), 0.1),
        ul_optimizer=jt.optim.SGD(ul_model.parameters(), 0.01),
        lower_iters=3,
        seed=5,
    )
    trainer.fit(*quadratic.batches(), max_steps=2, check_second_order=False)
    values = np.concatenate([v.ravel() for v in trainer.values().values()]).astype(float)
    return {"noise": ranks.gathered(noise[-1].numpy().astype(float)), "values": ranks.gathered(values)}


def bits():
    """Whether sums of numbers of every size have the same bits on all ranks, whatever way OpenMPI takes."""
    rng, sums = np.random.default_rng(RANK), {}
    for length in (1, 1000, 30_000, 1_000_000):
        values = (rng.normal(size=length) * 10.0 ** rng.integers(-6, 6, size=length)).astype(np.float32)
        (total,) = ranks.total([jt.array(values)])
        sums[str(length)] = zlib.crc32(total.numpy().tobytes())
    return sums


def unequal():
    """What a gda_loss of two batches with unequal shares says."""
    model, upper = Point([1.0]), Point([2.0])
    one, other = (ranks.Shard({}, [(rank + k) / total for rank in range(SIZE)]) for k, total in ((1, 3.0), (0, 1.0)))
    try:
        levels.call(lambda *_: model(), one, other, upper, model, parameters=[model.value])
    except ValueError as error:
        return {"says": str(error)}
    return {}


def returned_itself():
    """An objective that returns the variable itself; the mean over ranks of what weighs them."""
    model, upper = Point([3.0]), Point([2.0])
    weights = [(rank + 1) / (SIZE * (SIZE + 1) / 2) for rank in range(SIZE)]
    batch = ranks.Shard({"scale": float(RANK + 1)}, weights)
    one = levels.call(lambda b, u, m: m.value, batch, upper, model, parameters=[model.value])
    scaled = levels.call(lambda b, u, m: m() * u() * b["scale"], batch, upper, model, parameters=[model.value])
    by = autodiff.grad(scaled, [upper.value, model.value])
    return {"one": one.item(), "scaled": scaled.item(), "by": [v.item() for v in by], "kept": model.value.item()}


def elsewhere():
    """The derivative by an upper variable that lies outside of the upper model."""
    model, upper, other = Point([3.0]), Point([1.0]), Point([2.0])
    levels.upper_variables_are([other.value], upper)
    batch = ranks.Shard({"scale": float(RANK + 1)}, [1.0 / SIZE] * SIZE)
    loss = levels.call(lambda b, u, m: m() * other() * b["scale"], batch, upper, model, parameters=[model.value])
    return {"by": autodiff.grad(loss, [other.value])[0].item()}


if __name__ == "__main__":
    CASES = (
        numbers,
        variables,
        derivatives,
        traffic,
        executed,
        alive,
        kernels,
        drawn,
        bits,
        unequal,
        returned_itself,
        elsewhere,
    )
    Path(sys.argv[1], f"{RANK}.json").write_text(json.dumps({case.__name__: case() for case in CASES}))
