"""manifest.json: size and SHA-256 of every file of an experiment, so that a changed byte can be found."""

from pathlib import Path
from typing import Any

from gpt2lab.errors import ArchiveError
from gpt2lab.record.disk import disk_errors, file_sha256, json_bytes, read_json, write_atomic

MANIFEST = "manifest.json"

# Kept beside an experiment on the machine that made it, too large for git.
_WEIGHTS = frozenset({"model.bin"})

# What a report or a person writes again later. The rest is the record of the run, and never changes.
_REWRITTEN = frozenset({"README.md", "summary.json", "notes.md"})


def write_manifest(directory: Path) -> None:
    """Write the manifest of every file at and below `directory`. Raises ArchiveError."""
    with disk_errors("read", directory):
        files = {name: _entry(path, name) for name, path in _files(directory)}
    _write(directory, files)


def refresh_manifest(directory: Path) -> None:
    """Take the files that a report or a person rewrites into the manifest anew.

    The record of the run keeps the entries it was archived with, so that a change to it is still found, and weights
    that are not on this machine stay listed. Raises ArchiveError when the manifest is missing or damaged.
    """
    files = {name: entry for name, entry in read_manifest(directory).items() if not _is_rewritten(name)}
    with disk_errors("read", directory):
        files |= {name: _entry(path, name) for name, path in _files(directory) if _is_rewritten(name)}
    _write(directory, files)


def read_manifest(directory: Path) -> dict[str, dict[str, Any]]:
    """Return {file: {"sha256", "bytes", "in_git"}}. Raises ArchiveError when it is missing or damaged."""
    path = directory / MANIFEST
    files = read_json(path).get("files")
    if not isinstance(files, dict):
        raise ArchiveError(f"{path}: damaged, it does not list the files of the experiment")
    return files


def _is_rewritten(name: str) -> bool:
    return name in _REWRITTEN or name.startswith("figures/")


def _files(directory: Path) -> list[tuple[str, Path]]:
    """Return (name with forward slashes, path) of each file but the manifest and hidden ones."""
    named = [(path.relative_to(directory), path) for path in directory.rglob("*") if path.is_file()]
    return [
        (name.as_posix(), path)
        for name, path in named
        if name.as_posix() != MANIFEST and not any(part.startswith(".") for part in name.parts)
    ]


def _entry(path: Path, name: str) -> dict[str, Any]:
    return {
        "sha256": file_sha256(path),
        "bytes": path.stat().st_size,
        "in_git": name.rpartition("/")[2] not in _WEIGHTS,
    }


def _write(directory: Path, files: dict[str, dict[str, Any]]) -> None:
    write_atomic(directory / MANIFEST, json_bytes({"version": 1, "files": dict(sorted(files.items()))}))
