"""Writing to disk so that a reader finds the old content or the new, never half of either."""

import contextlib
import errno
import hashlib
import io
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt2lab.errors import ArchiveError

MAX_JSON_BYTES = 64 << 20  # provenance.json holds the patch of a whole working tree
_PIECE = 1 << 20


@contextlib.contextmanager
def disk_errors(action: str, path: Path) -> Iterator[None]:
    """Turn an OSError of the block (disk full, permission, missing) into one ArchiveError line naming `path`."""
    try:
        yield
    except OSError as error:
        raise ArchiveError(f"{path}: cannot {action}: {(error.strerror or str(error)).lower()}") from error


def write_atomic(path: Path, content: bytes) -> None:
    """Replace `path` by `content` in one rename, after it reached the disk.

    Raises ArchiveError when it cannot be written; the old file is then untouched and nothing is left beside it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors("write", path):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        fsync_directory(path.parent)


def read_plain_file(path: Path, limit: int) -> bytes:
    """Return the bytes of a plain file of at most `limit` bytes.

    Raises ArchiveError when it is missing or larger, and for what is not read at all, because it would lead out of
    its folder or never end: a link, a pipe, a device.
    """
    with disk_errors("read", path):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise ArchiveError(f"{path}: is a link; expected a plain file") from None
            raise
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ArchiveError(f"{path}: is not a plain file; expected one")
            content = _read_up_to(file, limit + 1) if status.st_size <= limit else b""
    if max(status.st_size, len(content)) > limit:
        size = max(status.st_size, len(content))
        raise ArchiveError(f"{path}: has {size:,} bytes, and at most {limit:,} of such a file are read")
    return content


def _read_up_to(file: io.RawIOBase, limit: int) -> bytes:
    pieces = []
    while limit > 0 and (piece := file.read(min(limit, _PIECE))):
        pieces.append(piece)
        limit -= len(piece)
    return b"".join(pieces)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raises ArchiveError when it is missing, damaged or no plain file."""
    content = read_plain_file(path, MAX_JSON_BYTES)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:  # the latter for a file that nests thousands of lists
        raise ArchiveError(f"{path}: damaged, it is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ArchiveError(f"{path}: damaged, expected a JSON object")
    return value


def json_bytes(value: dict[str, Any]) -> bytes:
    """Return an object as indented JSON, keys in the order given; numbers must be finite."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def fsync_directory(path: Path) -> None:
    """Make renames inside `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits, reading it in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
