"""One process at a time in a directory: a lock that the system drops when its process dies, however it dies."""

import fcntl
import os
from pathlib import Path

from gpt2lab.errors import ArchiveError
from gpt2lab.record.disk import disk_errors

LOCK = ".lock"


def acquire(directory: Path) -> int:
    """Lock `directory` and return the descriptor; closing it lets others in.

    Raises ArchiveError, naming the process, when another one is in it.
    """
    with disk_errors("lock", directory):
        lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
    except BlockingIOError:
        pid = os.pread(lock, 20, 0).decode(errors="replace") or "unknown"
        os.close(lock)
        raise ArchiveError(f"{directory}: process {pid} is running in it; wait for it, or stop it first") from None
    except OSError as error:
        os.close(lock)
        raise ArchiveError(f"{directory}: cannot lock: {(error.strerror or str(error)).lower()}") from error
    return lock


def is_held(directory: Path) -> bool:
    """Whether a process, of this machine, holds `directory`."""
    if not (directory / LOCK).exists():
        return False
    with disk_errors("lock", directory):
        descriptor = os.open(directory / LOCK, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
