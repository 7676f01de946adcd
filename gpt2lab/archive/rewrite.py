"""Writing the report of an experiment again: made whole in a staging folder, then put in place, the manifest last."""

import shutil
from collections.abc import Callable
from pathlib import Path

from gpt2lab.archive.manifest import MANIFEST, is_report, is_weights, refreshed, write_entries
from gpt2lab.archive.staging import staging_folder
from gpt2lab.archive.verify import walk_files
from gpt2lab.errors import ArchiveError
from gpt2lab.record.disk import disk_errors, fsync_directory, link_or_copy


def rewrite_report(directory: Path, title: str, write_report: Callable[[Path, str], None]) -> None:
    """Let `write_report(folder, title)` rewrite the report of the experiment `directory`; notes.md is not changed.

    Raises ArchiveError, and leaves the experiment as it was, for a record that no report can be made of,
    a damaged manifest, and a full disk.
    """
    with staging_folder(directory.parent, "write the report into") as staging:
        copy = staging / directory.name
        try:
            with disk_errors("write the report into", copy):
                _link_record(directory, copy)
                write_report(copy, title)
            # As it will be: the record by the entries of old, the rest by the new files.
            write_entries(copy, refreshed(directory, copy))
        except ArchiveError as error:
            raise ArchiveError(str(error).replace(str(copy), str(directory))) from None
        with disk_errors("write the report into", directory):
            _put_in_place(copy, directory)
        shutil.rmtree(staging, ignore_errors=True)


def _link_record(directory: Path, copy: Path) -> None:
    """Make the record appear in `copy`, as links: a report reads it and writes other files."""
    copy.mkdir()
    for name, _ in list(walk_files(directory)):
        hidden = any(part.startswith(".") for part in name.split("/"))
        if hidden or name == MANIFEST or is_weights(name) or is_report(name):
            continue
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(directory / name, copy / name)


def _put_in_place(copy: Path, directory: Path) -> None:
    made = [name for name, _ in walk_files(copy) if is_report(name)]
    before = [name for name, _ in walk_files(directory) if is_report(name)]
    for name in made:
        (directory / name).parent.mkdir(exist_ok=True)
    for name in made:
        (copy / name).replace(directory / name)
    for name in set(before) - set(made):
        (directory / name).unlink()
    (copy / MANIFEST).replace(directory / MANIFEST)
    fsync_directory(directory)
