"""The hooks of a callback: their sequence, arguments, and what happens when one fails."""

from jboat.callbacks import HOOKS, Callback
import jittor as jt
from problems import Quadratic
import pytest
from small_trainers import make


class Recorder(Callback):
    """Notes every hook with the outer and the inner step."""

    def __init__(self, fail_in=None, name="recorder"):
        self.calls = []
        self.fail_in = fail_in
        self.name = name

    @property
    def key(self):
        return f"Recorder({self.name})"

    def note(self, hook, trainer, state, *extra):
        self.calls.append((hook, state.step, state.inner_step))
        if hook == self.fail_in:
            raise LookupError(f"failed in {hook}")


for _hook in HOOKS:
    setattr(Recorder, _hook, lambda self, *args, _hook=_hook: self.note(_hook, *args))


def fit(*callbacks, **limits):
    trainer = make(*callbacks)
    trainer.fit([{}, {}], {}, val_loader={}, **limits)
    return trainer


def step(n):
    return [
        ("on_step_start", n, 0 if n == 0 else 2),
        ("on_lower_loop_start", n, 0),
        ("on_lower_step_end", n, 1),
        ("on_lower_step_end", n, 2),
        ("on_lower_loop_end", n, 2),
        ("on_hypergradient_start", n, 2),
        ("on_hypergradient_end", n, 2),
        ("on_before_upper_step", n, 2),
        ("on_step_end", n + 1, 2),
    ]


def test_the_exact_sequence():
    recorder = Recorder()
    fit(recorder, max_epochs=2)
    begin = [("setup", 0, 0), ("on_fit_start", 0, 0), ("on_epoch_start", 0, 0)]
    evaluation = [("on_evaluate_start", 2, 2), ("on_evaluate_end", 2, 2), ("on_epoch_end", 2, 2)]
    second = [("on_evaluate_start", 4, 2), ("on_evaluate_end", 4, 2), ("on_epoch_end", 4, 2)]
    end = [("on_fit_end", 4, 2), ("teardown", 4, 2)]
    first_step = [("on_step_start", 0, 0), *step(0)[1:]]
    later = [[("on_step_start", n, 0), *step(n)[1:]] for n in (1, 2, 3)]
    expected = [*begin, *first_step, *later[0], *evaluation, ("on_epoch_start", 2, 2), *later[1], *later[2]]
    assert recorder.calls == [*expected, *second, *end]


@pytest.mark.parametrize("hook", [h for h in HOOKS if h not in ("on_exception", "teardown")])
def test_an_exception_in_a_hook_arrives_and_everything_is_closed(hook):
    recorders = [Recorder(fail_in=hook, name="failing"), Recorder(name="other")]
    with pytest.raises(LookupError, match=f"failed in {hook}"):
        fit(*recorders)
    for recorder in recorders:
        assert [call[0] for call in recorder.calls][-2:] == ["on_exception", "teardown"]


@pytest.mark.parametrize("hook", ["on_exception", "teardown"])
def test_a_failure_while_closing_does_not_keep_the_others_from_closing(hook):
    recorders = [Recorder(fail_in=hook, name="failing"), Recorder(fail_in="on_step_start", name="cause")]
    with pytest.raises(LookupError):
        fit(*recorders)
    for recorder in recorders:
        assert recorder.calls[-1][0] == "teardown"


def test_hypergradient_hooks_get_the_result_and_may_change_it():
    class Freeze(Callback):
        def on_before_upper_step(self, trainer, state, result):
            result.gradients = [jt.zeros_like(g) for g in result.gradients]

    trainer = fit(Freeze())
    assert trainer.ul_var[0].numpy() == pytest.approx(Quadratic().x0, rel=1e-6)


def test_two_callbacks_with_equal_keys_are_refused():
    with pytest.raises(ValueError, match=r"same key: Recorder\(recorder\)\. Leave one"):
        fit(Recorder(), Recorder())


def test_a_higher_rank_runs_later():
    order = []

    class Note(Recorder):
        def on_step_start(self, trainer, state):
            order.append(self.name)

    last = Note(name="last")
    last.rank = 2
    fit(last, Note(name="first"), Note(name="second"), max_steps=1)
    assert order == ["first", "second", "last"]
