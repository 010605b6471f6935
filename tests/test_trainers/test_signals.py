"""SIGINT and SIGTERM end ``fit`` in good order, and everybody's handlers are as before."""

import ctypes
import logging
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

from jboat import StopReason
from jboat.callbacks import Callback, CSVLogger, EarlyStopping, LambdaCallback, ModelCheckpoint
from jboat.trainers.interrupt import DeferredInterrupt, InterruptedFit
import numpy as np
import pytest
import small_trainers


def make(*callbacks, folder=None):
    saver = [] if folder is None else [ModelCheckpoint(folder, every_n_steps=100)]
    return small_trainers.make(*callbacks, *saver, lower_iters=3)


def sending(*numbers, step=1):
    def send(trainer, state):
        if (state.step, state.inner_step) == (step, 2):
            for number in numbers:
                signal.raise_signal(number)

    return LambdaCallback(on_lower_step_end=send)


@pytest.fixture(autouse=True)
def _handlers_stay():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(("number", "exception"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_finishes_the_step_saves_closes_and_says_how_to_go_on(number, exception, tmp_path, caplog):
    closed = []
    closing = LambdaCallback("closing", teardown=lambda t, s: closed.append(s.step))
    trainer = make(sending(number), CSVLogger(tmp_path / "log"), closing, folder=tmp_path / "m")
    with caplog.at_level(logging.WARNING, "jboat"), pytest.raises(exception) as caught:
        trainer.fit({}, {}, max_steps=10)
    if number == signal.SIGTERM:
        assert caught.value.code == 143
    assert (trainer.state.step, trainer.state.stop_reason) == (2, StopReason.INTERRUPTED)
    assert closed == [2]
    assert len((tmp_path / "log" / "metrics.csv").read_text().splitlines()) == 3
    message = caplog.records[-1].getMessage()
    assert message.startswith(f"{number.name} ended fit after outer step 2; the newest checkpoint is {tmp_path / 'm'}")
    assert "fit(..., resume_from='last') goes on" in message
    assert number == signal.SIGTERM or str(caught.value) == message
    resumed = make(folder=tmp_path / "m")
    resumed.fit({}, {}, max_steps=3, resume_from="last")
    assert resumed.state.stop_reason is StopReason.MAX_STEPS
    whole = make()
    whole.fit({}, {}, max_steps=3)
    np.testing.assert_equal(resumed.values(), whole.values())


def test_a_signal_in_the_last_step_interrupts_as_well_and_what_a_callback_decided_stands():
    trainer = make(sending(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        trainer.fit({}, {}, max_steps=2)
    assert (trainer.state.step, trainer.state.stop_reason) == (2, StopReason.INTERRUPTED)
    enough = LambdaCallback("enough", on_step_end=lambda t, s: s.step == 2 and s.request_stop())
    trainer = make(sending(signal.SIGINT), enough)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit({}, {}, max_steps=10)
    assert (trainer.state.step, trainer.state.stop_reason) == (2, StopReason.CALLBACK)


def test_without_a_checkpoint_the_message_says_so(caplog):
    with pytest.raises(SystemExit):
        make(sending(signal.SIGTERM)).fit({}, {}, max_steps=10)
    expected = "SIGTERM ended fit after outer step 2; no checkpoint was written since there is no ModelCheckpoint"
    assert expected in caplog.text


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("second", "exception"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_second_signal_ends_at_once_and_saves_nothing(first, second, exception, tmp_path, caplog):
    closed = []
    closing = LambdaCallback("closing", teardown=lambda t, s: closed.append(s.inner_step))
    trainer = make(sending(first, second), closing, folder=tmp_path)
    with pytest.raises(exception):
        trainer.fit({}, {}, max_steps=10)
    assert (trainer.state.step, closed) == (1, [2])
    assert trainer.state.stop_reason is StopReason.INTERRUPTED
    assert list(tmp_path.iterdir()) == []
    assert (
        f"a second signal, {second.name}, ended fit within outer step 2; no checkpoint was written yet" in caplog.text
    )


def test_a_callback_sees_a_keyboard_interrupt_for_either(tmp_path):
    seen = []

    class Watch(Callback):
        def on_exception(self, trainer, state, exception):
            seen.append(exception)

        def on_fit_end(self, trainer, state):
            seen.append("the end")

    with pytest.raises(SystemExit):
        make(Watch(), sending(signal.SIGTERM)).fit({}, {}, max_steps=10)
    assert [type(e) for e in seen] == [InterruptedFit]
    assert isinstance(seen[0], KeyboardInterrupt)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_handler_of_the_users_gets_the_signal_after_fit_which_returns(number):
    got = []
    trainer = make(sending(number))
    before = signal.signal(number, lambda n, frame: got.append((n, trainer.state.step)))
    try:
        history = trainer.fit({}, {}, max_steps=10)
    finally:
        signal.signal(number, before)
    assert got == [(number, 2)]
    assert history["step"] == [1, 2]
    assert trainer.state.stop_reason is StopReason.INTERRUPTED
    trainer.fit({}, {}, max_steps=1)
    assert (trainer.state.step, trainer.state.stop_reason) == (3, StopReason.MAX_STEPS)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_ignored_signal_stays_ignored(number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        trainer = make(sending(number))
        trainer.fit({}, {}, max_steps=3)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)
    assert trainer.state.step == 3


def test_a_signal_before_the_first_step_takes_none(tmp_path):
    start = LambdaCallback(setup=lambda t, s: signal.raise_signal(signal.SIGTERM))
    trainer = make(start, folder=tmp_path)
    with pytest.raises(SystemExit):
        trainer.fit({}, {}, max_steps=3)
    assert trainer.state.step == 0
    assert list(tmp_path.iterdir()) == []


def test_a_signal_after_the_last_step_is_not_lost():
    end = LambdaCallback(on_fit_end=lambda t, s: signal.raise_signal(signal.SIGTERM))
    trainer = make(end)
    with pytest.raises(SystemExit):
        trainer.fit({}, {}, max_steps=2)
    assert (trainer.state.step, trainer.state.stop_reason) == (2, StopReason.MAX_STEPS)


def test_a_signal_is_not_lost_where_the_step_fails(caplog):
    def fail(trainer, state):
        signal.raise_signal(signal.SIGTERM)
        raise LookupError("of the step")

    with pytest.raises(SystemExit) as caught:
        make(LambdaCallback(on_step_start=fail)).fit({}, {}, max_steps=2)
    assert isinstance(caught.value.__context__, LookupError)
    assert "fit failed: LookupError: of the step" in caplog.text


def test_what_early_stopping_decided_stands(tmp_path):
    trainer = make(sending(signal.SIGTERM, step=0), EarlyStopping("ul_loss", threshold=1e9), folder=tmp_path)
    with pytest.raises(SystemExit):
        trainer.fit({}, {}, max_steps=10)
    assert trainer.state.stop_reason is StopReason.EARLY_STOPPING


def test_a_handler_set_from_c_comes_back(monkeypatch):
    calls = []
    kind = ctypes.CFUNCTYPE(None, ctypes.c_int)
    handler = kind(calls.append)
    library = ctypes.CDLL(None)
    library.signal.argtypes, library.signal.restype = [ctypes.c_int, kind], ctypes.c_void_p
    before = signal.getsignal(signal.SIGTERM)
    real = signal.getsignal
    library.signal(signal.SIGTERM, handler)
    try:
        # what Python says of a handler that was there when it started
        monkeypatch.setattr(signal, "getsignal", lambda n: None if n == signal.SIGTERM else real(n))
        with DeferredInterrupt() as interrupt:
            signal.raise_signal(signal.SIGTERM)
            assert (interrupt.received, calls) == (signal.SIGTERM, [])
        signal.raise_signal(signal.SIGTERM)
        assert calls == [signal.SIGTERM]
    finally:
        monkeypatch.undo()
        signal.signal(signal.SIGTERM, before)


def test_a_process_forked_meanwhile_ends_by_a_signal_as_ever():
    ended = []

    def fork(trainer, state):
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        os.kill(child, signal.SIGTERM)
        ended.append(os.waitpid(child, 0)[1])

    trainer = make(LambdaCallback(on_step_start=fork))
    trainer.fit({}, {}, max_steps=1)
    assert ended == [signal.SIGTERM]
    assert trainer.state.step == 1


PROGRAM = """
import sys
sys.path.insert(0, sys.argv[2])
import test_signals
from jboat.callbacks import LambdaCallback
import time
print("imported", flush=True)
slow = LambdaCallback(on_step_end=lambda t, s: (print(s.step, flush=True), time.sleep(0.05)))
test_signals.make(slow, folder=sys.argv[1]).fit({}, {}, max_steps=10**6)
"""


def test_a_scheduler_ends_a_program(tmp_path):
    here = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": str(Path(here).parent)}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path), here],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    for line in process.stdout:
        if line.strip() == "3":
            break
    os.killpg(process.pid, signal.SIGTERM)  # all processes of the job get it
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143
    assert "SIGTERM ended fit after outer step" in err
    assert "Traceback" not in err
    (saved,) = tmp_path.glob("step-*.npz")
    assert str(saved) in err
    trainer = make(folder=tmp_path)
    trainer.load_checkpoint(saved)
    assert trainer.state.step == int(saved.stem.split("-")[1]) >= 3
