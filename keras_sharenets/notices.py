"""Suppression of start-up notices of TensorFlow and LiteRT on standard error."""

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
    """Suppresses start-up notices on standard error while libraries are imported or used for the first time.

    TF_CPP_MIN_LOG_LEVEL does not affect notices written before TensorFlow reads it, so the file descriptor is
    redirected. All other lines are printed, and all lines if an exception is raised. With TF_CPP_MIN_LOG_LEVEL=0,
    nothing is suppressed, so that a crashing process shows the reason.
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
    """Suppresses notices in the first `opening` of this thread. For commands only; a library must not hide them."""
    token = _EXPECTED.set(True)
    try:
        yield
    finally:
        _EXPECTED.reset(token)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Context for a deferred import of a library; suppresses its notices in a command."""
    with without_notices() if _EXPECTED.get() else contextlib.nullcontext():
        yield


def without_retracing() -> None:
    """Suppresses TensorFlow's retracing warning, which is expected in a command that runs several networks."""
    logging.getLogger("tensorflow").addFilter(_is_not_retracing)


def _is_not_retracing(record: logging.LogRecord) -> bool:
    return "triggered tf.function retracing" not in record.getMessage()


@contextlib.contextmanager
def opening() -> Iterator[None]:
    """Context for opening a file in LiteRT, which prints a notice about its delegate once per process."""
    if not _EXPECTED.get():
        yield
        return
    with without_notices():
        yield
    _EXPECTED.set(False)
