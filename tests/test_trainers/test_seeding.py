"""Random numbers: what is seeded, and whose state comes back."""

import random

from jboat import BilevelTrainer
from jboat.trainers import seeding
from jboat.trainers.data.loader_stream import LoaderStream
from jboat.trainers.data.random_stream import RandomStream
import jittor as jt
import numpy as np
from problems import Quadratic


def test_derived_seeds_are_spread_and_repeatable():
    seeds = {seeding.derived_seed(a, b) for a in range(100) for b in range(100)}
    assert len(seeds) > 9990
    assert max(seeds) < 2**31
    assert seeding.derived_seed(1, 2) == seeding.derived_seed(1, 2) != seeding.derived_seed(2, 1)
    firsts = []
    for a in range(50):
        seeding.reseed_jittor(a)
        firsts.append(float(jt.rand(1).item()))
    assert np.std(firsts) > 0.2
    assert np.abs(np.corrcoef(firsts[:-1], firsts[1:])[0, 1]) < 0.5


def globals_drawn():
    return random.random(), np.random.rand()


def test_a_stream_has_generators_of_its_own():
    random.seed(1)
    np.random.seed(1)
    expected = globals_drawn()
    random.seed(1)
    np.random.seed(1)
    stream = RandomStream(5)
    with stream.active():
        first = globals_drawn()
    saved = stream.state_dict()
    with stream.active():
        second = globals_drawn()
    assert globals_drawn() == expected
    assert first != second
    stream.load_state_dict(saved)
    with stream.active():
        assert globals_drawn() == second


def test_a_loaders_order_does_not_depend_on_who_else_draws():
    def batches():
        for _ in range(3):
            yield {"x": np.random.rand(), "y": random.random()}

    def drawn(disturb):
        stream, seen = LoaderStream(batches, "loader", seed=3), []
        while (batch := stream.draw()) is not None:
            seen.append(batch)
            if disturb:
                globals_drawn()
        return seen

    assert drawn(disturb=False) == drawn(disturb=True)


def test_the_seed_decides_the_run_and_the_users_generators_are_left_alone_without_one():
    def make(seed):
        problem = Quadratic()
        ul_model, ll_model = problem.models()
        seen = []

        def f(batch, ul, ll):
            seen.append(batch["scale"])
            return batch["scale"] * problem.f(batch, ul, ll)

        parts = [jt.optim.SGD(list(m.parameters()), 0.1) for m in (ll_model, ul_model)]
        trainer = BilevelTrainer(
            ll_model, ul_model, f, problem.F, ll_optimizer=parts[0], ul_optimizer=parts[1], lower_iters=1, seed=seed
        )
        trainer.fit(lambda: ({"scale": float(s)} for s in np.random.permutation(5)), {}, max_epochs=2)
        return seen

    assert make(1) == make(1) != make(2)
    state, python = np.random.get_state()[1].copy(), random.getstate()
    make(None)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    assert random.getstate() == python
