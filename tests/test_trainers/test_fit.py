"""What ``fit`` does with batches, steps and starts."""

from jboat import BilevelTrainer, StopReason
import jittor as jt
import numpy as np
from problems import Quadratic
import pytest
import small_trainers

K, LR = 4, 0.1


def make(problem=None, **kwargs):
    return small_trainers.make(problem=problem, **{"ll_lr": LR, "lower_iters": K, **kwargs})


def values(trainer):
    return trainer.ul_var[0].numpy().copy(), trainer.ll_var[0].numpy().copy()


def exact_run(problem, steps, *, warm=True, lr=LR):
    """x and y of NGD+RAD with plain gradient descent above, in float64."""
    x, y = problem.x0, problem.y0
    for _ in range(steps):
        problem.x0, problem.y0, kept = x, y, (problem.x0, problem.y0)
        gradient = problem.reference(("RAD",), K=K, lr=lr)[0]
        end = problem.iterates(x, y, K, lr, np.zeros(K))[-1]
        problem.x0, problem.y0 = kept
        x, y_end = x - 0.1 * gradient, end
        if warm:
            y = end
    return x, y_end


@pytest.mark.parametrize("warm", [True, False])
def test_three_steps_equal_float64(warm):
    problem = Quadratic()
    trainer = make(problem, warm_start=warm)
    trainer.fit({}, {}, max_steps=3)
    x, y = exact_run(problem, 3, warm=warm)
    np.testing.assert_allclose(values(trainer)[0], x, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(values(trainer)[1], y, rtol=1e-5, atol=1e-6)
    assert trainer.state.step == 3
    assert trainer.state.stop_reason is StopReason.MAX_STEPS


def test_upper_adam_moves_x_exactly_as_jittors_adam():
    make_adam = lambda params: jt.optim.Adam(params, 0.05, betas=(0.8, 0.95), weight_decay=0.01)  # noqa: E731
    trainer = make(ul_optimizer=make_adam)
    twin = jt.array(trainer.ul_var[0].numpy().copy())
    own = make_adam([twin])
    for _ in range(4):
        gradient = trainer.hypergradient({}, {}).gradients[0]
        trainer.fit({}, {}, max_steps=1)
        own.step((twin * gradient).sum())
        # to rounding: kernels that are fused otherwise contract multiply-adds otherwise
        np.testing.assert_allclose(trainer.ul_var[0].numpy(), twin.numpy(), rtol=1e-6)
    assert trainer.ul_optimizer.n_step == 4


class Halved(jt.optim.SGD):
    """An optimizer of a user's own, which scales its loss."""

    def step(self, loss=None, retain_graph=False):
        super().step(0.5 * loss, retain_graph)


def test_an_upper_optimizer_may_scale_its_loss():
    trainer, whole = make(ul_optimizer=lambda params: Halved(params, 0.2)), make()
    for each in (trainer, whole):
        each.fit({}, {}, max_steps=3)
    np.testing.assert_allclose(values(trainer)[0], values(whole)[0], rtol=1e-6)


def test_di_learns_the_initialisation_and_starts_from_it():
    problem = Quadratic()
    trainer = make(problem, gm_op=("DI", "NGD"), solver_config={"DI": {"lr": 0.3}})
    _, _, _, by_y0 = problem.reference(("RAD",), K=K, lr=LR)
    trainer.fit({}, {}, max_steps=1)
    learned = problem.y0 - 0.3 * by_y0
    np.testing.assert_allclose(trainer.initialization[0].numpy(), learned, rtol=1e-5, atol=1e-6)
    x = values(trainer)[0].astype(float)
    trainer.fit({}, {}, max_steps=1)
    end = problem.iterates(x, learned, K, LR, np.zeros(K))[-1]
    np.testing.assert_allclose(values(trainer)[1], end, rtol=1e-5, atol=1e-6)


def test_iad_starts_from_the_upper_model():
    problem = Quadratic(same_dims=True)
    trainer = make(problem, na_op=("IAD",))
    trainer.ll_var[0].update(jt.array(np.full(8, 7.0, "float32")))
    for _ in range(2):
        x = values(trainer)[0].astype(float)
        exact = problem.__class__.reference(_at(problem, x), ("IAD",), K=K, lr=LR)[0]
        got = trainer.hypergradient({}, {}).gradients[0].numpy()
        np.testing.assert_allclose(got, exact, rtol=1e-4, atol=1e-5)
        trainer.fit({}, {}, max_steps=1)


def _at(problem, x):
    problem.x0 = x
    return problem


def test_hypergradient_twice_gives_the_same_and_changes_nothing():
    problem = Quadratic()
    trainer = make(problem, gm_op=("GDA", "DI", "NGD"), ll_optimizer=lambda p: jt.optim.SGD(p, LR, momentum=0.9))
    trainer.fit({}, {}, max_steps=1)
    batch, before = {"tag": "x"}, values(trainer)
    state = np.random.get_state()[1].copy()
    optimizer_before = trainer.ul_optimizer.n_step, trainer.ll_optimizer.n_step
    momentum = trainer.ll_optimizer.param_groups[0]["values"][0].numpy().copy()
    first, second = trainer.hypergradient(batch, {}), trainer.hypergradient(batch, {})
    np.testing.assert_array_equal(first.gradients[0].numpy(), second.gradients[0].numpy())
    np.testing.assert_array_equal(first.ll_init_gradient[0].numpy(), second.ll_init_gradient[0].numpy())
    assert first.upper_loss == second.upper_loss
    assert batch == {"tag": "x"}
    for old, new in zip(before, values(trainer), strict=True):
        np.testing.assert_array_equal(old, new)
    assert (trainer.ul_optimizer.n_step, trainer.ll_optimizer.n_step) == optimizer_before
    np.testing.assert_array_equal(trainer.ll_optimizer.param_groups[0]["values"][0].numpy(), momentum)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    assert not any(v.is_stop_grad() for v in (*trainer.ll_var, *trainer.ul_var))
    assert trainer.state.step == 1


def test_optimizer_state_is_reset_or_carried():
    def momentum(p):
        return jt.optim.SGD(p, LR, momentum=0.9)

    problem = Quadratic()
    carried = make(
        problem, ll_optimizer=momentum, ll_optimizer_state="carry", ul_optimizer=lambda p: jt.optim.SGD(p, 0.0)
    )
    carried.fit({}, {}, max_steps=2)
    whole = problem.iterates(problem.x0, problem.y0, 2 * K, LR, np.zeros(2 * K), beta=0.9)
    np.testing.assert_allclose(values(carried)[1], whole[-1], rtol=1e-5, atol=1e-6)
    assert carried.ll_optimizer.n_step == 2 * K
    reset = make(problem, ll_optimizer=momentum, ul_optimizer=lambda p: jt.optim.SGD(p, 0.0))
    reset.fit({}, {}, max_steps=2)
    y = problem.y0
    for _ in range(2):
        y = problem.iterates(problem.x0, y, K, LR, np.zeros(K), beta=0.9)[-1]
    np.testing.assert_allclose(values(reset)[1], y, rtol=1e-5, atol=1e-6)
    assert reset.ll_optimizer.n_step == 0


class Scaled(Quadratic):
    """The quadratic with its lower data term scaled by the batch."""

    def f(self, batch, ul_model, ll_model):
        return batch["scale"] * super().f(batch, ul_model, ll_model)


def test_accumulate_and_task_lists_average_hypergradients():
    problem = Scaled()
    batches = [{"scale": s} for s in (0.5, 1.0, 1.5)]
    single = make(problem)
    gradients = [single.hypergradient(b, {}).gradients[0].numpy() for b in batches]
    start = values(single)[0]
    expected = start - 0.1 * np.mean(gradients, axis=0)
    tasks_at_once = single.hypergradient(batches, [{}, {}, {}])
    np.testing.assert_allclose(tasks_at_once.gradients[0].numpy(), np.mean(gradients, axis=0), rtol=1e-5)
    accumulated = make(problem, accumulate=3)
    accumulated.fit(batches, [{}], max_epochs=1)
    tasks = make(problem)
    tasks.fit([batches], [[{}, {}, {}]], max_epochs=1)
    for trainer in (accumulated, tasks):
        assert trainer.state.step == 1
        np.testing.assert_allclose(values(trainer)[0], expected, rtol=1e-5, atol=1e-6)


def test_fresh_lower_batches_give_each_step_its_own():
    seen = []

    class Recording(Scaled):
        def f(self, batch, ul_model, ll_model):
            seen.append(batch["scale"])
            return super().f(batch, ul_model, ll_model)

    problem = Recording()
    trainer = make(problem, lower_batches="fresh", na_op=("CG",))
    batches = [{"scale": 0.1 * s} for s in range(1, 7)]
    trainer.fit(batches, [{}], max_epochs=1, check_second_order=False)
    # six batches, K = 4: the second step wraps and ends the epoch; its CG differentiates phi of the last batch
    assert trainer.state.step == 2
    assert seen == pytest.approx([0.1, 0.1, 0.2, 0.3, 0.4, 0.4, 0.5, 0.6, 0.1, 0.2, 0.2])


def test_a_hypergradient_with_fresh_batches_needs_k_of_them():
    trainer = make(Scaled(), lower_batches="fresh")
    same = trainer.hypergradient([{"scale": 1.0}] * K, {}).gradients[0].numpy()
    np.testing.assert_allclose(same, make().hypergradient({}, {}).gradients[0].numpy(), rtol=1e-5)
    with pytest.raises(ValueError, match="ll_batch must be a list of lower_iters = 4 batches, got 3"):
        trainer.hypergradient([{"scale": 1.0}] * 3, {})


def test_epochs_cycle_the_shorter_loader():
    class Recording(Scaled):
        upper, lower = [], []

        def f(self, batch, ul_model, ll_model):
            self.lower.append(batch["scale"])
            return super().f(batch, ul_model, ll_model)

        def F(self, batch, ul_model, ll_model):
            self.upper.append(batch["id"])
            return super().F(batch, ul_model, ll_model)

    problem = Recording()
    trainer = make(problem)
    lower, upper = [{"scale": 1.0}, {"scale": 0.5}, {"scale": 0.25}], [{"id": 0}, {"id": 1}]
    trainer.fit(lower, upper, max_epochs=2, check_second_order=False)
    assert trainer.state.step == 6
    assert trainer.state.epoch == 2
    assert problem.upper[1:] == [0, 1, 0, 1, 0, 1]  # the first call checks the objective
    assert problem.lower[1::K] == [1.0, 0.5, 0.25] * 2
    assert trainer.state.stop_reason is StopReason.MAX_EPOCHS


def test_one_epoch_is_the_default_and_time_stops():
    trainer = make()
    trainer.fit([{}, {}], {})
    assert (trainer.state.step, trainer.state.epoch) == (2, 1)
    trainer.fit({}, {}, max_time=1e-9)
    assert trainer.state.step == 3
    assert trainer.state.stop_reason is StopReason.MAX_TIME


def test_the_direct_api_gives_the_trainers_numbers():
    from chains import solve

    problem = Quadratic()
    sections = {"GDA": {"alpha_init": 0.3, "alpha_decay": 0.9}, "CG": {"k": 5}}
    chains = (("GDA", "NGD"), ("PTT", "CG"))
    trainer = make(problem, gm_op=chains[0], na_op=chains[1], solver_config=sections)
    ours = trainer.hypergradient({}, {})
    direct = solve(problem, *chains, lower_iters=K, lr=LR, sections=sections)
    np.testing.assert_array_equal(ours.gradients[0].numpy(), direct["hyper_gradient"][0].numpy())
    assert ours.upper_loss == direct["upper_loss"]
    assert ours.diagnostics["ptt_index"] == direct["max_loss_iter"]
    assert ours.diagnostics["gda_alpha"] == 0.3


def test_history_and_metrics():
    trainer = make(na_op=("PTT", "CG"), gm_op=("GDA", "NGD"))
    history = trainer.fit({}, {}, max_steps=3, val_loader={}, val_every=2)
    assert history["step"] == [1, 2, 3]
    expected = {"ll_loss", "ul_loss", "hypergradient_norm", "ll_lr", "ul_lr", "gda_alpha", "ptt_index"}
    expected |= {"cg_residual", "cg_iterations", "time_lower", "time_hypergradient", "time_update", "time_step"}
    assert expected <= set(history.names())
    assert all(isinstance(v, (int, float)) for row in history for v in row.values())
    assert len(history["val_ul_loss"]) == 1
    assert "val_ul_loss" in history.rows[1]
    assert trainer.state.metrics["val_ul_loss"] == history["val_ul_loss"][0]


def test_subclassing():
    problem = Quadratic()

    class Mine(BilevelTrainer):
        def ll_objective(self, batch, ul_model, ll_model):
            return problem.f(batch, ul_model, ll_model)

        def ul_objective(self, batch, ul_model, ll_model):
            return problem.F(batch, ul_model, ll_model)

        def gda_loss(self, ll_batch, ul_batch, ul_model, ll_model):
            alpha = ll_batch["alpha"]
            return alpha * self.ul_objective(ul_batch, ul_model, ll_model) + (1 - alpha) * self.ll_objective(
                ll_batch, ul_model, ll_model
            )

        def configure_optimizers(self):
            return jt.optim.SGD(self.ll_model.parameters(), LR), jt.optim.SGD(self.ul_model.parameters(), 0.1)

        def evaluation_step(self, batch):
            return {"answer": 42}

    ul_model, ll_model = problem.models()
    mine = Mine(ll_model, ul_model, gm_op=("GDA", "NGD"), lower_iters=K)
    plain = make(problem, gm_op=("GDA", "NGD"))
    got, expected = mine.hypergradient({}, {}).gradients[0].numpy(), plain.hypergradient({}, {}).gradients[0].numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert mine.evaluate({}) == {"answer": 42.0}


def test_an_exception_leaves_both_models_usable():
    class Failing(Quadratic):
        calls = 0

        def f(self, batch, ul_model, ll_model):
            self.calls += 1
            if self.calls == 8:
                raise OSError("disk on fire")
            return super().f(batch, ul_model, ll_model)

    trainer = make(Failing())
    with pytest.raises(OSError, match="disk on fire"):
        trainer.fit({}, {}, max_steps=5, check_second_order=False)
    x, y = exact_run(Quadratic(), 1)
    np.testing.assert_allclose(values(trainer)[0], x, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(values(trainer)[1], y, rtol=1e-5, atol=1e-6)
    trainer.fit({}, {}, max_steps=1)
    assert trainer.state.step == 2
