"""The hidden folder in which an experiment is put together, and whether its maker still lives.

The maker holds a lock on the folder itself for as long as it works, and the system drops it with the process.
"""

import contextlib
import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from gpt2lab.archive.leftovers import is_record
from gpt2lab.errors import ArchiveError
from gpt2lab.record.disk import disk_errors, file_sha256
from gpt2lab.record.lock import locked

PREFIX = ".staging-"
_WRITTEN_OFTEN = ("status.json", "metrics.csv")
_YOUNG_S = 60.0  # a folder is there a moment before its lock


@contextlib.contextmanager
def staging_folder(root: Path, action: str) -> Iterator[Path]:
    """Make a new folder below `root`, which exists, for the block to fill and rename; an error removes it.

    Raises ArchiveError, naming `action`, when it cannot be made.
    """
    staging = root / f"{PREFIX}{uuid.uuid4().hex}"
    with disk_errors(action, staging):
        staging.mkdir()
    with contextlib.ExitStack() as stack:
        try:
            with disk_errors("lock", staging):
                stack.enter_context(locked(staging, create=False, shared=True))
            yield staging
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise


@contextlib.contextmanager
def held_orphan(staging: Path) -> Iterator[bool]:
    """Say whether no process works in a staging folder any more, and keep it so in the block."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(staging, create=False, wait=False))
            status = staging.lstat()
            orphan = stat.S_ISDIR(status.st_mode) and time.time() - status.st_mtime >= _YOUNG_S
        except OSError:  # gone, held, or on a file system that does not lock: left alone
            orphan = False
        yield orphan


@contextlib.contextmanager
def unchanged(directory: Path) -> Iterator[None]:
    """Raise ArchiveError when a file of the record in `directory` changed, came or went while the block read it."""
    before = _states(directory)
    yield
    after = _states(directory)
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) != after.get(path):
            raise ArchiveError(
                f"{path}: changed while it was copied: the run is still at work; wait for its end, or stop it first"
            )


def _states(directory: Path) -> dict[Path, tuple[int | str, ...]]:
    states: dict[Path, tuple[int | str, ...]] = {}
    with disk_errors("read", directory):
        for folder, subfolders, files in os.walk(directory):
            subfolders[:] = filter(is_record, subfolders)
            for path in (Path(folder) / name for name in filter(is_record, files)):
                with contextlib.suppress(FileNotFoundError):  # replaced this moment, which the second look finds
                    status = path.stat()
                    # Some file systems keep times to two seconds only.
                    digest = file_sha256(path) if path.name in _WRITTEN_OFTEN else ""
                    states[path] = (status.st_ino, status.st_size, status.st_mtime_ns, digest)
    return states
