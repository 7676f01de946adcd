"""File locks between processes. The system drops a lock when its process ends, however it ends."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpt2lab.errors import ArchiveError
from gpt2lab.record.disk import disk_errors

LOCK = ".lock"
_LOOK_S = 0.2  # longer than another process holds a lock to look whether it is held


@contextmanager
def locked(path: Path, *, create: bool = True, shared: bool = False, wait: bool = True) -> Iterator[None]:
    """Hold a lock on the file `path`, made where it is missing; without `create` it must exist and may be a folder.

    Several processes may hold a shared lock. Raises BlockingIOError when another process holds the lock and `wait` is
    false, and OSError when `path` cannot be locked.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT if create else os.O_RDONLY, 0o644)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


def acquire(directory: Path, *, patience_s: float = _LOOK_S) -> int:
    """Lock `directory` and return the descriptor; closing it lets others in.

    Raises ArchiveError, naming the process, when another one is still in it after `patience_s` seconds.
    """
    with disk_errors("lock", directory):
        lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    until = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
            return lock
        except BlockingIOError:
            if time.monotonic() < until:
                time.sleep(0.01)
                continue
            pid = os.pread(lock, 20, 0).decode(errors="replace") or "unknown"
            os.close(lock)
            raise ArchiveError(f"{directory}: process {pid} is running in it; wait for it, or stop it first") from None
        except OSError as error:
            os.close(lock)
            raise ArchiveError(f"{directory}: cannot lock: {(error.strerror or str(error)).lower()}") from error


@contextmanager
def held(directory: Path, *, patience_s: float = _LOOK_S) -> Iterator[None]:
    """Hold the lock of `directory` while the block runs. Raises ArchiveError as `acquire` does."""
    lock = acquire(directory, patience_s=patience_s)
    try:
        yield
    finally:
        os.close(lock)


def is_held(directory: Path) -> bool:
    """Whether a process, of this machine, holds `directory`."""
    if not (directory / LOCK).exists():
        return False
    with disk_errors("lock", directory):
        try:
            with locked(directory / LOCK, create=False, shared=True, wait=False):
                return False
        except BlockingIOError:
            return True
