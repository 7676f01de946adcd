"""Whether an experiment is still what was archived: its files, its config or plan, and its report.

The manifest finds what changed by accident or on the way; it is not a signature, which a person who changes a file
and its line in the manifest would have to forge too.
"""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2lab.archive.manifest import MANIFEST, NOTES, is_rewritten, is_weights, read_manifest
from gpt2lab.archive.report_check import check_report
from gpt2lab.archive.sweeps import plan_faults
from gpt2lab.errors import ArchiveError, Gpt2labError
from gpt2lab.record.disk import disk_errors, file_sha256
from gpt2lab.record.metrics import read_metrics
from gpt2lab.record.sweep import PLAN, RUNS


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One file that is not as it was archived."""

    file: str
    kind: str  # changed, missing, extra, refused, stale or unreadable
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What the check of one experiment found; sound without faults."""

    path: Path
    faults: tuple[Fault, ...]
    absent: tuple[str, ...] = ()  # weights that are listed and not on this machine
    notes_edited: bool = False  # since the report was written
    report_by: str | None = None  # code or libraries that differ from those here and wrote another report; no fault


def verify(
    directory: Path,
    *,
    weights: bool = False,
    check_config: Callable[[Path], None] | None = None,
    write_report: Callable[[Path, str], None] | None = None,
) -> Verification:
    """Return what differs in the experiment `directory` from its manifest, config and report.

    `check_config(path)` raises a Gpt2labError when a config.yaml does not compose any more; `write_report(directory,
    title)` writes the report of a record, here into a temporary folder. Each is left out where None. Weights that are
    not there are a fault only with `weights`. Raises ArchiveError when the disk cannot be read.
    """
    try:
        manifest = read_manifest(directory)
    except ArchiveError as error:
        return Verification(path=directory, faults=(Fault(file=MANIFEST, kind="refused", why=str(error)),))
    with disk_errors("read", directory):
        faults, absent, notes_edited = _check_files(directory, manifest, weights)
    if check_config is not None:
        configs = _check_configs(directory, manifest, check_config)
        unread = {fault.file for fault in (*faults, *configs)}
        faults += configs
        if PLAN in manifest and PLAN not in unread:
            faults += _check_plan(directory, [name for name in manifest if name not in unread])
    # A report of a changed record says nothing about the report that was archived.
    record_faults = [fault for fault in faults if not is_rewritten(fault.file) and not is_weights(fault.file)]
    report_by = None
    if write_report is not None and not record_faults:
        skipped = {fault.file for fault in faults} | ({"README.md"} if notes_edited else set())
        report_faults, report_by = check_report(directory, manifest, write_report, skipped=skipped)
        faults += [Fault(file=file, kind=kind, why=why) for file, kind, why in report_faults if file not in skipped]
    return Verification(
        path=directory, faults=tuple(faults), absent=absent, notes_edited=notes_edited, report_by=report_by
    )


def walk_files(directory: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield (name with forward slashes, its own status) of all that is below `directory` but folders; links are not
    followed. Raises OSError.
    """
    for folder, subfolders, files in os.walk(directory, onerror=_raise):
        for entry in sorted((*subfolders, *files)):
            path = Path(folder) / entry
            status = path.lstat()
            if not stat.S_ISDIR(status.st_mode):
                yield path.relative_to(directory).as_posix(), status


def _raise(error: OSError) -> None:
    raise error


def _check_files(
    directory: Path, manifest: dict[str, dict[str, Any]], weights: bool
) -> tuple[list[Fault], tuple[str, ...], bool]:
    on_disk = {name: status for name, status in walk_files(directory) if name != MANIFEST}
    faults, absent, notes_edited = [], [], False
    for name, entry in manifest.items():
        if name not in on_disk:
            if is_weights(name) and not weights:
                absent.append(name)
            else:
                faults.append(Fault(file=name, kind="missing", why="the manifest lists it"))
        else:
            why = _difference(directory / name, on_disk[name].st_size, entry)
            if why and name == NOTES:
                notes_edited = True
            elif why:
                faults.append(Fault(file=name, kind="changed", why=why))
    extra = sorted(on_disk.keys() - manifest.keys())
    faults += [Fault(file=name, kind="extra", why="the manifest does not list it") for name in extra]
    return faults, tuple(absent), notes_edited


def _difference(path: Path, size: int, entry: dict[str, Any]) -> str | None:
    if size == entry["bytes"]:
        digest = file_sha256(path)
        if digest == entry["sha256"]:
            return None
        why = f"sha256 {digest[:12]}…, archived with {entry['sha256'][:12]}…"
    else:
        why = f"{size:,} bytes, archived with {entry['bytes']:,}"
    if path.name == "metrics.csv":
        try:
            read_metrics(path)
        except ArchiveError as error:
            return f"{why}; {str(error).removeprefix(str(path)).lstrip(', :')}"
    return why


def _check_configs(directory: Path, manifest: dict[str, Any], check: Callable[[Path], None]) -> list[Fault]:
    names = [name for name in manifest if name.rpartition("/")[2] == "config.yaml"]
    if PLAN in manifest:  # the one above is what the runs have in common, no config that could run
        names = [name for name in names if name.startswith(f"{RUNS}/")]
    if not names:
        return [Fault(file="config.yaml", kind="missing", why="the manifest lists none")]
    faults = []
    for name in names:
        if not (directory / name).is_file():
            continue  # reported as missing
        try:
            check(directory / name)
        except Gpt2labError as error:
            why = f"it does not compose under today's schema: {error}"
            faults.append(Fault(file=name, kind="refused", why=why))
    return faults


def _check_plan(directory: Path, names: list[str]) -> list[Fault]:
    try:
        found = plan_faults(directory, [name for name in names if (directory / name).is_file()])
        return [Fault(file=file, kind="refused", why=why) for file, why in found]
    except ArchiveError as error:
        return [Fault(file=PLAN, kind="refused", why=str(error))]
