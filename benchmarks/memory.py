"""The memory that work needs, measured in a process of its own."""

import concurrent.futures
import multiprocessing
import os
import pathlib
import re

_ACCOUNT = "/proc/self/clear_refs"


def peak_memory(function, *arguments):
    """By how many bytes the resident memory of a fresh process grows at most while it runs a function.

    What importing the function's module takes is not in it.

    Args:
        function: a function of a module, which a fresh process can import.
        *arguments: what it is called with; they are pickled.

    Returns:
        int, or `None` on systems without `/proc`.
    """
    if not os.access(_ACCOUNT, os.W_OK):
        return None
    fresh = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=fresh) as process:
        return process.submit(_growth, function, arguments).result()


def _growth(function, arguments):
    # Forgets the peak of what came before, such as the imports.
    pathlib.Path(_ACCOUNT).write_text("5")
    before = _peak()
    function(*arguments)
    return _peak() - before


def _peak():
    """The largest resident memory of this process since the account was cleared, in bytes."""
    return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
