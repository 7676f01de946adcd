"""Writing to disk so that a reader finds the old content or the new, never half of either."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt2lab.errors import ArchiveError


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


def read_bytes(path: Path) -> bytes:
    """Return the content of a file. Raises ArchiveError when it cannot be read."""
    with disk_errors("read", path):
        return path.read_bytes()


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raises ArchiveError when it is missing or damaged."""
    content = read_bytes(path)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:  # the latter for a file that nests thousands of lists
        raise ArchiveError(f"{path}: damaged, it is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ArchiveError(f"{path}: damaged, expected a JSON object")
    return value


def check_version(path: Path, version: object, known: int) -> None:
    """Raise ArchiveError when the content of `path` is of another version than `known`."""
    if version != known or isinstance(version, bool):
        raise ArchiveError(
            f"{path}: version {str(version)[:40]!r}, and this gpt2lab reads version {known}: "
            "use the gpt2lab that wrote it"
        )


def json_bytes(value: dict[str, Any]) -> bytes:
    """Return an object as indented JSON, keys in the order given; numbers must be finite."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def link_or_copy(source: Path, target: Path) -> None:
    """Make the file `target` a link to `source`; a copy on another file system, or on one without links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


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
