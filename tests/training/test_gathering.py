"""Workers wait for each other before TensorFlow or JAX connects them."""

import re
import signal
import socket
import threading
import time

import pytest

from keras_sharenets.interruption import Interrupted, command_signals
from keras_sharenets.training.devices.cluster import gathered


@pytest.fixture
def addresses():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return [f"127.0.0.1:{port}", "b:2", "c:3"]


def start_worker(addresses, index, told, timeout=30.0):
    """Starts a worker in a thread, which appends its index or its error to `told`."""

    def run():
        try:
            with gathered(addresses, index, timeout=timeout):
                told.append(index)
        except ValueError as error:
            told.append(f"{index}: {error}")

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_workers_start_together_and_duplicates_are_rejected(addresses):
    told = []
    workers = [start_worker(addresses, index, told) for index in (1, 0)]
    time.sleep(0.7)
    # Unknown and closed connections are not counted.
    host, port = addresses[0].split(":")
    for greeting in (b"GET / HTTP/1.1", b"sharenets 2 0"):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(greeting)
    assert told == []
    start_worker(addresses, 1, told).join()
    start_worker([*addresses[:2], "d:4"], 2, told).join()
    assert told == [
        "1: Another process is already worker 1 of TF_CONFIG.",
        "2: Worker 0 has other addresses in TF_CONFIG.",
    ]
    workers.append(start_worker(addresses, 2, told))
    for worker in workers:
        worker.join()
    assert sorted(told[2:]) == [0, 1, 2]
    socket.create_server(("", int(port))).close()


def test_timeout(addresses):
    told = []
    for worker in [start_worker(addresses, 1, told, timeout=3), start_worker(addresses, 0, told, timeout=1)]:
        worker.join()
    assert "0: Worker 0 waited 1 seconds for all workers of TF_CONFIG. Missing: 2 (c:3)." in told
    (other,) = [line for line in told if line.startswith("1")]
    assert re.match(rf"1: Waited 3 seconds for worker 0 of TF_CONFIG \({addresses[0]}\): ", other)
    with socket.create_server(("", int(addresses[0].split(":")[1]))):
        start_worker(addresses, 0, told).join()
    assert re.match(r"0: Worker 0 cannot listen on port \d+, its port in TF_CONFIG: .*in use", told[-1])


@pytest.mark.parametrize("index", [0, 1])
def test_signal_interrupts_waiting(addresses, index):
    threading.Timer(0.3, signal.raise_signal, (signal.SIGTERM,)).start()
    start = time.monotonic()
    with command_signals(), pytest.raises(Interrupted), gathered(addresses, index, timeout=60):
        pass
    assert time.monotonic() - start < 10
