"""manifest.json: size and SHA-256 of every file of an experiment, so that a changed byte can be found."""

from pathlib import Path
from typing import Any

from gpt2lab.errors import ArchiveError
from gpt2lab.record.disk import check_version, disk_errors, file_sha256, json_bytes, read_json, write_atomic

MANIFEST = "manifest.json"
VERSION = 1

# What a report or a person writes again later. The rest is the record of the run, and never changes.
_REPORT = frozenset({"README.md", "summary.json"})
NOTES = "notes.md"  # its author's: a change is no fault, and the report takes it in when it is written again


def write_manifest(directory: Path) -> None:
    """Write the manifest of every file at and below `directory`. Raises ArchiveError."""
    with disk_errors("read", directory):
        files = {name: _entry(path, name) for name, path in _files(directory)}
    write_entries(directory, files)


def refreshed(directory: Path, report: Path) -> dict[str, dict[str, Any]]:
    """Return the manifest of the experiment `directory` with the rewritten files as they are in the folder `report`.

    The record of the run keeps the entries it was archived with, so that a change to it is still found, and weights
    that are not on this machine stay listed. Raises ArchiveError when the manifest is missing or damaged.
    """
    files = {name: entry for name, entry in read_manifest(directory).items() if not is_rewritten(name)}
    with disk_errors("read", report):
        return files | {name: _entry(path, name) for name, path in _files(report) if is_rewritten(name)}


def read_manifest(directory: Path) -> dict[str, dict[str, Any]]:
    """Return {file: {"sha256", "bytes", "in_git"}}. Raises ArchiveError when it is missing, damaged or of a version
    that is not known here.
    """
    path = directory / MANIFEST
    manifest = read_json(path)
    check_version(path, manifest.get("version", VERSION), VERSION)
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(
        isinstance(entry, dict) and isinstance(entry.get("sha256"), str) and isinstance(entry.get("bytes"), int)
        for entry in files.values()
    ):
        raise ArchiveError(f"{path}: damaged, it does not list the files of the experiment")
    return files


def is_weights(name: str) -> bool:
    """Whether a file is too large for git, and kept on the machine that made it alone, so that it may be absent."""
    return name.rpartition("/")[2] == "model.bin"


def is_rewritten(name: str) -> bool:
    """Whether a report or a person writes this file again later."""
    return is_report(name) or name == NOTES


def is_report(name: str) -> bool:
    """Whether a report writes this file."""
    return name in _REPORT or name.startswith("figures/")


def _files(directory: Path) -> list[tuple[str, Path]]:
    """Return (name with forward slashes, path) of each file but the manifest and hidden ones."""
    named = [(path.relative_to(directory), path) for path in directory.rglob("*") if path.is_file()]
    return [
        (name.as_posix(), path)
        for name, path in named
        if name.as_posix() != MANIFEST and not any(part.startswith(".") for part in name.parts)
    ]


def _entry(path: Path, name: str) -> dict[str, Any]:
    return {"sha256": file_sha256(path), "bytes": path.stat().st_size, "in_git": not is_weights(name)}


def write_entries(directory: Path, files: dict[str, dict[str, Any]]) -> None:
    """Write manifest.json of these entries. Raises ArchiveError."""
    write_atomic(directory / MANIFEST, json_bytes({"version": VERSION, "files": dict(sorted(files.items()))}))
