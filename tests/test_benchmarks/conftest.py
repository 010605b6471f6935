"""Programs are killed here at their limits, and programs that handle signals run within the tests' process."""

import signal

import pytest


@pytest.fixture(autouse=True)
def _signals_as_before():
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # Jittor ends a process one of whose children was killed
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
