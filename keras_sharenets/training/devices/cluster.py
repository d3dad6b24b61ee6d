"""The processes of a cluster, and a barrier until all of them have started.

TensorFlow waits forever for a missing worker and ignores signals meanwhile; JAX aborts the process. All workers
therefore first meet here, at the address of worker 0, before TensorFlow or JAX connects them.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import re
import socket
import time
import zlib
from collections.abc import Iterator, Sequence

from keras_sharenets.interruption import reinstall_handlers

EXAMPLE = '{"cluster": {"worker": ["10.0.0.1:7001", "10.0.0.2:7001"]}, "task": {"type": "worker", "index": 0}}'
TIMEOUT = 600.0  # Seconds that workers wait for each other.
_POLL = 0.5  # Seconds between two checks of the timeout.


def read_cluster() -> tuple[list[str], int]:
    """`(addresses, index)`: the workers, and the index of this one, from the environment variable `TF_CONFIG`.

    Raises:
        ValueError: `TF_CONFIG` is not set or is invalid.
    """
    text = os.environ.get("TF_CONFIG")
    if not text:
        raise ValueError(f"`strategy` (='multi_worker') needs the environment variable TF_CONFIG, like {EXAMPLE}.")
    try:
        config = json.loads(text)
        addresses, kind, index = config["cluster"]["worker"], config["task"]["type"], config["task"]["index"]
        ports = [int(port) for _, port in (address.rsplit(":", 1) for address in addresses)]
        if not all(0 < port < 2**16 for port in ports):
            raise ValueError("a port must be a number from 1 to 65535")
        if len(set(addresses)) < len(addresses):
            raise ValueError("the addresses of the workers must be distinct")
        if (
            isinstance(index, bool)
            or kind != "worker"
            or set(config["cluster"]) != {"worker"}
            or index not in range(len(addresses))
        ):
            raise ValueError("all tasks must be of type worker, and the index must count them from 0")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"TF_CONFIG (={text}) must be like {EXAMPLE}. {reason}.") from error
    return addresses, index


@contextlib.contextmanager
def gathered(addresses: Sequence[str], index: int, *, timeout: float) -> Iterator[None]:
    """Waits until all workers have arrived; the body must connect them through TensorFlow or JAX within the timeout.

    If a worker dies during that connection, signals have no effect: the process ends with a traceback after the
    timeout.

    Args:
        addresses, index: as returned by `read_cluster`.
        timeout: timeout in seconds.

    Raises:
        ValueError: a worker is missing, arrives twice or has other addresses.
    """
    mark = zlib.crc32(json.dumps(list(addresses)).encode())
    if index:
        _join(addresses[0], f"sharenets {index} {mark}", timeout)
    else:
        _host(addresses, mark, timeout)
    faulthandler.dump_traceback_later(timeout, exit=True, file=2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        # TensorFlow and JAX replace Python's handler of SIGTERM.
        reinstall_handlers()


def _host(addresses: Sequence[str], mark: int, timeout: float) -> None:
    """Worker 0 waits for the others and releases them together."""
    end = time.monotonic() + timeout
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listen(int(addresses[0].rsplit(":", 1)[1])))
        server.settimeout(_POLL)
        present: dict[int, socket.socket] = {}
        while missing := [number for number in range(1, len(addresses)) if not _is_open(present.get(number))]:
            if time.monotonic() > end:
                names = ", ".join(f"{number} ({addresses[number]})" for number in missing)
                raise ValueError(f"Worker 0 waited {timeout:g} seconds for all workers of TF_CONFIG. Missing: {names}.")
            with contextlib.suppress(OSError):
                connection = stack.enter_context(server.accept()[0])
                connection.settimeout(_POLL)
                _greet(connection, connection.recv(100), present, mark)
        for connection in present.values():
            with contextlib.suppress(OSError):
                connection.sendall(b"go")
        for connection in present.values():
            # The other side closes first, so the address is free at once.
            with contextlib.suppress(OSError):
                connection.settimeout(_POLL)
                connection.recv(1)


def _greet(connection: socket.socket, greeting: bytes, present: dict[int, socket.socket], mark: int) -> None:
    """Accepts a worker, or sends it the reason for a rejection; ignores other connections."""
    found = re.fullmatch(rb"sharenets (\d+) (\d+)", greeting)
    if found is None:
        return
    number, its_mark = map(int, found.groups())
    if its_mark != mark:
        connection.sendall(b"error: Worker 0 has other addresses in TF_CONFIG.")
    elif _is_open(present.get(number)):
        connection.sendall(f"error: Another process is already worker {number} of TF_CONFIG.".encode())
    else:
        present[number] = connection


def _join(address: str, greeting: str, timeout: float) -> None:
    """Any other worker waits until worker 0 has seen all."""
    host, port = address.rsplit(":", 1)
    end, state = time.monotonic() + timeout, ""
    while time.monotonic() < end:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=_POLL) as connection:
                connection.sendall(greeting.encode())
                state, answer = "it is waiting for other workers", None
                while answer is None and time.monotonic() < end:
                    with contextlib.suppress(TimeoutError):
                        answer = connection.recv(200)
        except OSError as error:
            state, answer = str(error), b""
        if answer == b"go":
            return
        if answer and answer.startswith(b"error: "):
            raise ValueError(answer.decode("ascii", "replace").removeprefix("error: "))
        # Worker 0 has not started, or another process answers, such as a previous run that has not ended.
        time.sleep(_POLL)
    raise ValueError(f"Waited {timeout:g} seconds for worker 0 of TF_CONFIG ({address}): {state}.")


def _listen(port: int) -> socket.socket:
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        raise ValueError(f"Worker 0 cannot listen on port {port}, its port in TF_CONFIG: {error}.") from error


def _is_open(connection: socket.socket | None) -> bool:
    """Whether there is a connection that the other side has not closed."""
    if connection is None:
        return False
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
