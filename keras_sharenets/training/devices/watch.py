"""Workers watch each other: when one of them is gone, the others stop within a minute, with one line.

Not left to TensorFlow and JAX: depending on the moment, a step then fails, hangs, or ends the process without a word.
Every worker holds a connection to worker 0, which passes the news on. A process that is killed closes it at once; a
machine that is cut off no longer says that it is alive.
"""

import contextlib
import ctypes
import os
import signal
import socket
import struct
import sys
import threading
import time

INTERVAL, PATIENCE = 5, 30  # Seconds from one sign of life to the next, and without any before a worker counts as gone.
ALIVE, FINISHED = 0xFFFF, 0xFFFE  # Anything else is the number of a worker that is gone.
EXIT_CODE = 2
MESSAGE = struct.Struct("!H")


class Watch:
    """Watches the other workers from the moment it is made; all of them must make one.

    Args:
        devices: `Devices`.
        way_on: str, what to do when a worker is gone; one sentence.
    """

    def __init__(self, devices, way_on):
        self.devices = devices
        self.way_on = way_on
        self._peers = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        if devices.workers == 1:
            return
        if devices.chief:
            with socket.create_server(("", 0)) as server:
                server.settimeout(PATIENCE)
                devices.gather(server.getsockname()[1])
                for _ in range(devices.workers - 1):
                    peer = server.accept()[0]
                    self._peers[MESSAGE.unpack(_receive(peer))[0]] = peer
        else:
            port = devices.gather(0)[0]
            self._peers[0] = socket.create_connection((devices.chief_host, port), timeout=PATIENCE)
            self._peers[0].sendall(MESSAGE.pack(devices.worker))
        for number, peer in self._peers.items():
            peer.settimeout(PATIENCE)
            threading.Thread(target=self._listen, args=(number, peer), daemon=True).start()
        threading.Thread(target=self._speak, daemon=True).start()
        # JAX aborts the process when worker 0 is gone. The abort waits until `_stop` has had its time: a handler of
        # Python's own would not be called before the process has ended.
        self._on_abort = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: self._over.wait(INTERVAL))
        ctypes.CDLL(None).signal(int(signal.SIGABRT), self._on_abort)

    def close(self, finished):
        """Ends the watch; the others stop unless this worker is `finished`."""
        self._over.set()
        if self._peers:
            ctypes.CDLL(None).signal(int(signal.SIGABRT), None)
        if finished:
            self._send(FINISHED)
            return
        for peer in self._peers.values():
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)

    def wait(self, error):
        """Returns when no worker turns out to be gone; before that, `error` may come of it."""
        if isinstance(error, self.devices.errors):
            time.sleep(PATIENCE + INTERVAL)

    def _listen(self, number, peer):
        while True:
            try:
                news = MESSAGE.unpack(_receive(peer))[0]
            except OSError:
                news = number
            if news == FINISHED:
                return
            if news != ALIVE:
                self._stop(news)

    def _speak(self):
        while not self._over.wait(INTERVAL):
            self._send(ALIVE)

    def _send(self, message):
        with self._lock:
            for peer in self._peers.values():
                # Whether the other is there, its own signs of life tell.
                with contextlib.suppress(OSError):
                    peer.sendall(MESSAGE.pack(message))

    def _stop(self, gone):
        # An error that all have, as a loss that is no number, each of them shall tell by itself.
        if self._over.wait(1):
            return
        self._send(gone)
        here = f"worker {self.devices.worker} of {self.devices.workers}"
        sys.stderr.write(f"error: Worker {gone} is gone, so {here} stops too. {self.way_on}\n")
        sys.stderr.flush()
        # Nothing less ends a process that waits for another one inside TensorFlow or JAX.
        os._exit(EXIT_CODE)


def _receive(peer):
    data = b""
    while len(data) < MESSAGE.size:
        more = peer.recv(MESSAGE.size - len(data))
        if not more:
            raise ConnectionError("closed")
        data += more
    return data
