"""Exclusive access of a process to a folder.

The lock is an operating system lock on the file `.lock` in the folder. It is released when its holder ends for any
reason, so there are no stale locks. It works across containers and, if the file server supports locks, across machines.
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
_ATTEMPTS = 1000  # Other processes may create and remove the folder and the lock at the same time.
# Errors of file systems without locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class FolderInUseError(ValueError):
    """Another process, or another thread of this one, holds the folder."""


@contextlib.contextmanager
def hold_folder(folder: str | os.PathLike) -> Iterator[None]:
    """Locks a folder for this process. A missing folder is created, and removed afterward if it is still empty.

    On a file system without locks, this issues a warning and does not lock.

    Raises:
        FolderInUseError: another process, or another thread of this one, holds the lock. The message states which.
        OSError: the folder cannot be created or is not writable.

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
        # Removed while locked: `_lock` checks that the locked file still exists. Windows cannot remove an open file.
        if fcntl is not None:
            (folder / LOCK).unlink(missing_ok=True)
        os.close(descriptor)
        if missing:
            with contextlib.suppress(OSError):
                folder.rmdir()


def is_unused(folder: pathlib.Path) -> bool:
    """Whether a folder is missing, or empty except for a lock and partial files of killed processes."""
    if not folder.exists():
        return True
    return folder.is_dir() and all(path.name == LOCK or path.name.endswith(".partial") for path in folder.iterdir())


def _lock(folder: pathlib.Path) -> int:
    """The descriptor of the locked file; closing it releases the lock."""
    path = folder / LOCK
    reason = None
    for _ in range(_ATTEMPTS):
        try:
            _make(folder)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError as error:  # The previous holder may have removed the folder.
            reason = error
            continue
        try:
            _lock_file(descriptor)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:  # It may have removed the file.
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
    raise OSError(f"The folder {folder} cannot be created or locked: {reason}.") from reason


def _make(folder: pathlib.Path) -> None:
    """Creates a folder that other processes may create and remove at the same time."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        # The path existed but is not a folder now: it is a file, or a folder that its holder has just removed.
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISDIR(os.lstat(folder).st_mode):
                raise


def _lock_file(descriptor: int) -> None:
    """Raises an `OSError` if the file is already locked."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    # Beyond the end of the file, since other processes cannot read a locked region.
    os.lseek(descriptor, 1 << 30, os.SEEK_SET)
    msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)


def _read_holder(descriptor: int) -> str:
    """The holder of the lock, which may not have written its details yet."""
    for _ in range(10):
        os.lseek(descriptor, 0, os.SEEK_SET)
        try:
            holder = json.loads(os.read(descriptor, 1000))
            return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
        except (ValueError, KeyError, TypeError):
            time.sleep(0.05)
    return "another process"
