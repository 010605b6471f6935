"""Lower loops of which few iterates are kept: the same bits, as many steps taken again as the schedule says."""

import logging
import random

from jboat.backend import free_memory
from jboat.kept_iterates import KeptIterates
from jboat.number_of_checkpoints import StepSize, fitting
import jittor as jt
from jittor import nn
import numpy as np
from problems import Classifier, Point, Quadratic
import pytest
from small_trainers import make

K = 13
KEPT = ({}, {"remat_every": 1}, {"remat_every": 4}, {"checkpoints": 2}, {"checkpoints": 3}, {"checkpoints": 50})


def batches(problem):
    return problem.batches() if isinstance(problem, Classifier) else ({}, {})


def results(section, make_problem, *, lower_iters=K, feeds=None, sections=None, **arguments):
    problem = make_problem()
    trainer = make(
        problem=problem,
        lower_iters=lower_iters,
        solver_config={"RAD": section, "RGT": {"truncate_iter": 4}, "GDA": {"alpha_init": 0.3}, **(sections or {})},
        seed=3,
        **arguments,
    )
    found = trainer.hypergradient(*(feeds or batches(problem)))
    return [v.numpy() for v in (*found.gradients, *found.ll_parameters, *(found.ll_init_gradient or []))]


def assert_same_bits(make_problem, kept=KEPT, **arguments):
    plain, *others = (results(section, make_problem, **arguments) for section in kept)
    for section, other in zip(kept[1:], others, strict=True):
        for a, b in zip(plain, other, strict=True):
            np.testing.assert_array_equal(b, a, err_msg=str(section))


def adam(parameters):
    return jt.optim.Adam(parameters, 0.05)


def rmsprop(parameters):
    return jt.optim.RMSprop(parameters, 0.05)


def adan(parameters):
    return jt.optim.Adan(parameters, 0.05)


CHAINS = {
    "joined": ({}, Quadratic),
    "joined, GDA, DI, RGT": ({"gm_op": ["GDA", "DI", "NGD"], "na_op": ["RGT", "RAD"]}, Classifier),
    "PTT": ({"na_op": ["PTT", "RAD"]}, Classifier),
    "PTT, RGT, GDA": ({"gm_op": ["GDA", "NGD"], "na_op": ["PTT", "RGT", "RAD"]}, Quadratic),
    "IAD": ({"na_op": ["IAD"]}, lambda: Quadratic(same_dims=True)),
    "GDA, RMSprop": ({"gm_op": ["GDA", "NGD"], "ll_optimizer": rmsprop}, Classifier),
    "GDA, Adan": ({"gm_op": ["GDA", "NGD"], "ll_optimizer": adan}, Classifier),
    "DI, Adam": ({"gm_op": ["DI", "NGD"], "ll_optimizer": adam}, Quadratic),
    "PTT, FD": ({"na_op": ["PTT", "FD"]}, Quadratic),
    "DI, CG": ({"gm_op": ["DI", "NGD"], "na_op": ["CG"], "sections": {"CG": {"k": 3}}}, Quadratic),
}


@pytest.mark.parametrize("name", CHAINS)
def test_the_same_bits_as_with_all_graphs(name):
    arguments, problem = CHAINS[name]
    assert_same_bits(problem, **arguments)


@pytest.mark.parametrize("steps", [1, 2, 10, 11])
def test_loops_that_are_short_or_end_with_a_run(steps):
    assert_same_bits(Quadratic, ({}, {"checkpoints": 2}), lower_iters=steps)


def test_each_step_has_its_own_batch_again():
    problem = Classifier()
    lower, upper = problem.batches()
    fresh = [{"data": lower["data"] * (1.0 + 0.1 * k), "target": lower["target"]} for k in range(K)]
    assert_same_bits(Classifier, ({}, {"checkpoints": 2}), lower_batches="fresh", feeds=(fresh, upper))


class Noisy(jt.Module):
    """Random numbers, running statistics that nobody reads, and some that the next call reads."""

    def __init__(self):
        self.norm, self.drop, self.weight = nn.BatchNorm(6), nn.Dropout(0.5, is_train=True), jt.ones((3, 6))
        self.calls = jt.ones(1).stop_grad()

    def execute(self, x):
        self.calls.update((self.calls * 1.25).stop_grad())
        return jt.matmul(self.drop(self.norm(x)), self.weight.transpose()) * self.calls.detach()


@pytest.mark.parametrize("na_op", [["RAD"], ["PTT", "RAD"]], ids=str)
def test_random_numbers_and_running_statistics(na_op):
    def run(section):
        problem = Classifier()
        trainer = make(
            problem=problem,
            ll_model=Noisy(),
            ll_optimizer=lambda p: jt.optim.SGD([v for v in p if not v.is_stop_grad()], 0.01),
            na_op=na_op,
            lower_iters=5,
            solver_config={"RAD": section},
            seed=3,
        )
        trainer.fit(*problem.batches(), max_steps=2)
        assert trainer.ll_model.calls.item() == pytest.approx(1.25**10)
        return trainer.values()

    plain = run({})
    for section in ({"remat_every": 2}, {"checkpoints": 2}):
        for name, value in run(section).items():
            np.testing.assert_array_equal(value, plain[name], err_msg=f"{section} {name}")


@pytest.mark.parametrize("section", [{"remat_every": 1}, {"checkpoints": 2}], ids=str)
def test_random_numbers_are_the_same_though_the_user_wants_no_seeds(section):
    """``y_K = -lr x sum_k m_k`` for the masks m_k that were drawn, so that ``d sum(y_K) / dx = sum(y_K) / x``."""
    x, y = Point([0.5]), Point(np.zeros(50))
    trainer = make(
        ul_model=x,
        ll_model=y,
        ll_objective=lambda batch, ul, ll: (nn.dropout(ll(), 0.5, is_train=True) * ul()).sum(),
        ul_objective=lambda batch, ul, ll: ll().sum(),
        lower_iters=5,
        solver_config={"RAD": section},
        deterministic=False,
    )
    found = trainer.hypergradient({}, {})
    moved = found.ll_parameters[0].numpy()
    assert len(np.unique(moved.round(4))) > 3
    assert found.gradients[0].item() == pytest.approx(moved.sum() / 0.5, rel=1e-5)


@pytest.mark.parametrize(("steps", "kept", "again"), [(9, 2, 9), (20, 3, 26), (20, 4, 20)])
def test_steps_are_taken_again_as_often_as_the_schedule_says_and_few_are_kept(steps, kept, again, monkeypatch):
    problem, calls, sizes = Quadratic(), 0, []
    f, add, put = problem.f, KeptIterates.add, KeptIterates.put

    def counted(*args):
        nonlocal calls
        calls += 1
        return f(*args)

    def noted(method):
        def call(self, *args):
            method(self, *args)
            last = self._last
            sizes.append(len([k for k in self._states if k not in (last, last - 1)]))

        return call

    monkeypatch.setattr(problem, "f", counted)
    monkeypatch.setattr(KeptIterates, "add", noted(add))
    monkeypatch.setattr(KeptIterates, "put", noted(put))
    optimizer = lambda p: jt.optim.SGD(p, 0.1, momentum=0.5)  # noqa: E731  (its steps are not joined)
    trainer = make(
        problem=problem, lower_iters=steps, ll_optimizer=optimizer, solver_config={"RAD": {"checkpoints": kept}}
    )
    trainer.hypergradient({}, {}, check_second_order=False)
    assert calls == steps + again + steps
    assert max(sizes) == kept


def test_iterates_that_are_not_kept_can_be_asked_for():
    from chains import solve

    def trajectory(section):
        return solve(Quadratic(), ["NGD"], ["RAD"], lower_iters=K, lr=0.1, sections={"RAD": section})["trajectory"]

    every, few = trajectory({"remat_every": 1}), trajectory({"checkpoints": 2})
    for step in (5, 6, 12, 1, 0, 13):
        np.testing.assert_array_equal(few.parameters(step)[0].numpy(), every.parameters(step)[0].numpy())
    assert few.losses() == every.losses()


def test_the_memory_decides(monkeypatch, caplog):
    seen = []
    keep_few = KeptIterates.keep_few

    def noted(self, most, **kwargs):
        seen.append(most)
        keep_few(self, most, **kwargs)

    monkeypatch.setattr(KeptIterates, "keep_few", noted)
    plain = results({}, Classifier)
    with caplog.at_level(logging.INFO, "jboat"):
        for free in (2**40, 3500, 0):
            monkeypatch.setattr(free_memory, "free", lambda free=free: free)
            for a, b in zip(plain, results({"checkpoints": "auto"}, Classifier), strict=True):
                np.testing.assert_array_equal(b, a)
    assert len(seen) == 2
    assert 2 <= seen[0] < K
    assert seen[1] == 2
    assert "checkpoints='auto': a lower step takes" in caplog.text
    assert "of 13 steps all graphs are kept" in caplog.text


def test_how_many_fit():
    """Half of the memory is used, that of one step's graph apart."""
    size = StepSize(graph=1000, iterate=100)
    assert fitting(size, 10, 20_000) == 0
    assert fitting(size, 10, 19_999) == 10
    assert fitting(size, 100, 4000) == 10
    assert fitting(size, 100, 2000) == fitting(size, 100, 0) == 2
    assert fitting(size, 7, 3000) == 5


def test_the_limit_of_a_control_group_counts(tmp_path, monkeypatch):
    meminfo, own = tmp_path / "meminfo", tmp_path / "cgroup"
    meminfo.write_text("MemTotal:       4000 kB\nMemAvailable:   3000 kB\n")
    monkeypatch.setattr(free_memory, "_MEMINFO", meminfo)
    monkeypatch.setattr(free_memory, "_CGROUPS", tmp_path / "fs")
    monkeypatch.setattr(free_memory, "_OWN_CGROUP", own)
    assert free_memory.free() == 3000 * 1024
    own.write_text("0::/a/b\n")
    for place, limit, used in (("a", "2000000", "600000"), ("a/b", "max", "100")):
        folder = tmp_path / "fs" / place
        folder.mkdir(parents=True)
        (folder / "memory.max").write_text(limit)
        (folder / "memory.current").write_text(used)
        (folder / "memory.stat").write_text("anon 1\ninactive_file 100000\n")
    assert free_memory.free() == 2_000_000 - 600_000 + 100_000
    folder = tmp_path / "fs" / "memory"
    folder.mkdir()
    own.write_text("5:cpu:/\n4:memory:/gone\n")
    for name, text in (("limit_in_bytes", "700000"), ("usage_in_bytes", "900000"), ("stat", "")):
        (folder / f"memory.{name}").write_text(text)
    assert free_memory.free() == 0


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"checkpoints": 1}, r"\['checkpoints'\] must be an integer >= 2, 'auto', or 0 for none, got 1\."),
        ({"checkpoints": -3}, "got -3"),
        ({"checkpoints": 2.5}, "got 2.5"),
        ({"checkpoints": True}, "got True"),
        ({"checkpoints": "atuo"}, "got 'atuo'. Did you mean 'auto'"),
        ({"checkpoints": 4, "remat_every": 2}, "both remat_every.* and checkpoints.*got 2 and 4"),
        ({"checkpoint": 4}, "Did you mean 'checkpoints'"),
    ],
)
def test_bad_values_are_refused_before_anything_runs(section, message):
    with pytest.raises(ValueError, match=message):
        make(solver_config={"RAD": section})


def test_what_it_costs_is_told():
    cost = make(lower_iters=7, solver_config={"RAD": {"checkpoints": 3}}).summary().cost["RAD"]
    assert cost.startswith("7 Hessian-vector products; memory of 7 steps, or of a step and 3 iterates and")
    assert "checkpoints" not in make().summary().cost["RAD"]


def test_memory_is_given_back_after_every_step_that_leaves_much_and_every_tenth_of_others(monkeypatch):
    resident, given = [100_000_000], []

    def give_back():
        given.append(step)
        resident[0] -= left

    monkeypatch.setattr(free_memory, "give_back", give_back)
    monkeypatch.setattr(free_memory, "_resident", lambda: resident[0])
    returns = free_memory.Returns()
    for step in range(30):
        left = 300_000 if step < 4 else 100_000
        returns.after_step()
    assert given == [0, 1, 2, 3, 4, 14, 24]


def test_what_a_process_holds_grows_with_what_it_is_given():
    before = free_memory._resident()
    held = np.ones(4_000_000)
    assert held.nbytes // 2 < free_memory._resident() - before < 2 * held.nbytes


@pytest.mark.parametrize("section", [{}, {"remat_every": 1}, {"checkpoints": 2}], ids=str)
@pytest.mark.parametrize("draw", [np.random.rand, random.random, lambda: jt.rand(1)], ids=["numpy", "python", "jittor"])
def test_numbers_that_are_drawn_anew_in_a_step_taken_again_are_told_of(section, draw, caplog):
    problem = Quadratic()

    def noisy(batch, ul_model, ll_model):
        return problem.f(batch, ul_model, ll_model) + (ll_model() * draw()).sum()

    with caplog.at_level(logging.WARNING, "jboat"):
        trainer = make(problem=problem, ll_objective=noisy, lower_iters=3, solver_config={"RAD": section})
        trainer.fit({}, {}, max_steps=2, check_second_order=False)
    assert caplog.text.count("draws random numbers of numpy") == (
        section != {} and draw in (np.random.rand, random.random)
    )
