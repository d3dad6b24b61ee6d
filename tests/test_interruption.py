"""Signals to a command and to its training run."""

import signal
import subprocess
import sys
import threading

import pytest

from keras_sharenets import interruption
from keras_sharenets.interruption import Interrupted, command_signals, deferred_signals

# A C call that continues after a signal.
STUCK = """
import ctypes, sys
from keras_sharenets import interruption
interruption._STUCK = float(sys.argv[1])
with interruption.command_signals():
    ctypes.CDLL(None).system(b"echo stuck; exec sleep 9 > /dev/null 2>&1")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no sleep")
@pytest.mark.parametrize(("patience", "signals"), [(0.1, 1), (60, 2)])
def test_a_library_that_does_not_return_is_terminated(patience, signals):
    command = [sys.executable, "-c", STUCK, str(patience)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"stuck\n"
        process.terminate()
        for _ in range(signals - 1):
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(interruption._AGAIN + 0.2)
            process.terminate()
        assert process.wait(5) == 143
        assert process.stderr.read() == b"interrupted\n"


def test_first_signal_is_deferred_and_the_second_is_not(monkeypatch):
    def put_off(number):
        with deferred_signals() as request:
            signal.raise_signal(number)
            assert request.number == number
            signal.raise_signal(number)
            assert interruption._AGAIN > 0

    # Some batch systems send the signal twice in quick succession.
    with command_signals(), pytest.raises(Interrupted) as stop:
        put_off(signal.SIGTERM)
    assert stop.value.number == signal.SIGTERM
    with command_signals(), pytest.raises(Interrupted) as stop:
        signal.raise_signal(signal.SIGTERM)
    assert stop.value.number == signal.SIGTERM
    monkeypatch.setattr(interruption, "_AGAIN", -1)
    with pytest.raises(KeyboardInterrupt) as stop:
        put_off(signal.SIGINT)
    assert type(stop.value) is KeyboardInterrupt
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_ignored_signals_stay_ignored_and_threads_have_no_handlers():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with command_signals(), deferred_signals() as request:
            signal.raise_signal(signal.SIGINT)
        assert request.number == 0
    finally:
        signal.signal(signal.SIGINT, before)
    seen = []

    def run():
        with command_signals(), deferred_signals():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]
