"""Handling of Ctrl-C and SIGTERM (from Kubernetes, SLURM or `kill`) in a command and in its training run."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AGAIN = 0.5  # Seconds after which a signal counts as a new one: `timeout` and some batch systems send each twice.
_STUCK = 5.0  # Seconds within which Python must handle a signal, unless a training run has deferred it.


class Interrupted(KeyboardInterrupt):
    """A signal has ended the current work.

    Attributes:
        number: number of the signal.
        args: optional hints on how to continue.
    """

    def __init__(self, number: int, *hints: str) -> None:
        super().__init__(*hints)
        self.number = number


@dataclasses.dataclass
class Request:
    """The `number` of the signal that `deferred_signals` has received, or 0."""

    number: int = 0


@contextlib.contextmanager
def deferred_signals() -> Iterator[Request]:
    """Records the first signal, so that work can stop where it can be resumed; a second one has its previous effect.

    Signals are recorded only in the main thread.

    Raises:
        Interrupted: at the end, if a signal was recorded and no other exception was raised.
    """
    request, first = Request(), 0.0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if not request.number:
            request.number, first = number, time.monotonic()
        elif time.monotonic() - first > _AGAIN:
            _install(before)
            signal.raise_signal(number)

    before = _handlers()
    _install(dict.fromkeys(before, note))
    try:
        yield request
    finally:
        _install(before)
    if request.number:
        raise Interrupted(request.number)


@contextlib.contextmanager
def command_signals() -> Iterator[None]:
    """Signal handling of a command: both signals raise `Interrupted`, and the next one ends the process immediately.

    Python does not call handlers while a library computes or waits, so a thread listens as well. It ends the process at
    the second signal, and at the first if Python does not handle it and no training run has deferred it. No file is
    damaged: every file is written under a temporary name and renamed, and the kernel releases locks.
    """
    heard = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        if not heard.is_set():
            heard.set()
            raise Interrupted(number)

    def listen() -> None:
        first = 0.0
        while data := reader.recv(1):
            number, now = data[0], time.monotonic()
            if number not in SIGNALS or 0 < now - first <= _AGAIN:
                continue
            deferred = signal.getsignal(number) is not stop
            if first or not (deferred or select.select([reader], [], [], _STUCK)[0] or heard.is_set()):
                os.write(2, b"interrupted\n")
                os._exit(128 + number)
            first = now
        reader.close()

    before = _handlers()
    if not before:
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    threading.Thread(target=listen, name="signals", daemon=True).start()
    _install(dict.fromkeys(before, stop))
    wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        _install(before)
        writer.close()


def reinstall_handlers() -> None:
    """Restores Python's handlers if a library has replaced them without Python's knowledge."""
    _install(_handlers())


def _handlers() -> dict[int, Any]:
    """The handlers of the signals that this process does not ignore; empty outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    found = {number: signal.getsignal(number) for number in SIGNALS}
    return {number: handler for number, handler in found.items() if handler not in (signal.SIG_IGN, None)}


def _install(handlers: Mapping[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
