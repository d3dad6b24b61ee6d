"""A folder that one process at a time writes into.

The lock is the operating system's, on the file `.lock` in the folder: it ends with its holder, however that dies, so
none is ever left behind. It holds between containers and, where the file server has locks, between machines.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import pathlib
import socket
import stat
import time
import warnings
from collections.abc import Iterator

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

LOCK = ".lock"
# What a file system without locks says.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class FolderInUseError(ValueError):
    """Another process, or another thread of this one, holds the folder."""


@contextlib.contextmanager
def hold_folder(folder: str | os.PathLike) -> Iterator[None]:
    """Holds a folder for this process alone; one that is missing is made, and goes again if nothing came into it.

    On a file system without locks, it warns and holds nothing.

    Raises:
        FolderInUseError: another process, or another thread of this one, holds it; the message says which.
        OSError: the folder cannot be made or written into.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place, hold_folder(place):
    ...     os.listdir(place)
    ['.lock']
    """
    folder = pathlib.Path(folder)
    missing = not folder.exists()
    descriptor = _lock(folder)
    try:
        since = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, json.dumps(holder).encode())
        yield
    finally:
        # While it is held: `_lock` looks whether what it has locked is still there. Windows removes no open file.
        if fcntl is not None:
            (folder / LOCK).unlink(missing_ok=True)
        os.close(descriptor)
        if missing:
            with contextlib.suppress(OSError):
                folder.rmdir()


def is_unused(folder: pathlib.Path) -> bool:
    """Whether a folder is missing or empty, but for a lock and what a killed process left half-written."""
    if not folder.exists():
        return True
    return folder.is_dir() and all(path.name == LOCK or path.name.endswith(".partial") for path in folder.iterdir())


def _lock(folder: pathlib.Path) -> int:
    """The descriptor of the locked file; closing it is letting go of the lock."""
    path = folder / LOCK
    while True:
        with contextlib.suppress(FileNotFoundError):  # The holder before may have removed the folder, or the file.
            _make(folder)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                _lock_file(descriptor)
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return descriptor
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    warnings.warn(f"{folder} cannot be locked ({error.strerror}): start one run in it.", stacklevel=4)
                    return descriptor
                holder = _read_holder(descriptor)
                os.close(descriptor)
                raise FolderInUseError(
                    f"The folder {folder} is in use by {holder}. Wait, or choose another one."
                ) from error
            os.close(descriptor)


def _make(folder: pathlib.Path) -> None:
    """Makes a folder that others make and remove at the same time."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        # Something had its name and was no folder a moment later: a file, or a folder that its holder has removed.
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISDIR(os.lstat(folder).st_mode):
                raise


def _lock_file(descriptor: int) -> None:
    """Raises an `OSError` if the file is locked already."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    # Behind the end: what is locked cannot be read by others.
    os.lseek(descriptor, 1 << 30, os.SEEK_SET)
    msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)


def _read_holder(descriptor: int) -> str:
    """Who holds the lock; it may be about to write that."""
    for _ in range(10):
        os.lseek(descriptor, 0, os.SEEK_SET)
        try:
            holder = json.loads(os.read(descriptor, 1000))
            return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
        except (ValueError, KeyError, TypeError):
            time.sleep(0.05)
    return "another process"
