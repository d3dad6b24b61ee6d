"""What the libraries of TensorFlow and LiteRT say of themselves, and how a command keeps it from standard error."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator

_NOTICE = re.compile(
    r"WARNING: All log messages before absl|[IW]\d{4} [\d:.]+ |\d{4}-\d\d-\d\d [\d:.]+ *: [IW] |To enable the following"
    r"|INFO: Created TensorFlow Lite XNNPACK delegate"
)
_EXPECTED = contextvars.ContextVar("a notice of LiteRT is expected", default=False)


@contextlib.contextmanager
def without_notices() -> Iterator[None]:
    """Keeps start-up notices from standard error while libraries are imported or used for the first time.

    TF_CPP_MIN_LOG_LEVEL does not reach those that are written before TensorFlow reads it, so the file descriptor is
    redirected. Every other line comes through, and all lines if what is done fails. With TF_CPP_MIN_LOG_LEVEL=0 nothing
    is held back: a process that dies meanwhile shows why.
    """
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "0":
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    failed = True
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
            failed = False
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            held.seek(0)
            sys.stderr.writelines(text for text in held if failed or not _NOTICE.match(text))


@contextlib.contextmanager
def quiet_interpreters() -> Iterator[None]:
    """The first `opening` of this thread is then one without notices. A command decides so: a library must not."""
    token = _EXPECTED.set(True)
    try:
        yield
    finally:
        _EXPECTED.reset(token)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """For what imports a library late: without its notices in a command."""
    with without_notices() if _EXPECTED.get() else contextlib.nullcontext():
        yield


def without_retracing() -> None:
    """Keeps TensorFlow from warning that it traces again: a command that has one network after the other must."""
    logging.getLogger("tensorflow").addFilter(_tells_more_than_retracing)


def _tells_more_than_retracing(record: logging.LogRecord) -> bool:
    return "triggered tf.function retracing" not in record.getMessage()


@contextlib.contextmanager
def opening() -> Iterator[None]:
    """For what opens a file in LiteRT, which tells of its delegate once a process."""
    if not _EXPECTED.get():
        yield
        return
    with without_notices():
        yield
    _EXPECTED.set(False)
