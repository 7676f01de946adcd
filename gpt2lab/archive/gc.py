"""What can be deleted: run directories whose every file an experiment holds, runs that wrote nothing, dead staging.

A run goes only when an experiment that verifies has each of its files, by hash, and when nothing is left to continue.
So a run that was continued since, that holds a file of somebody's own, or whose weights are not in this copy of the
archive, stays.
"""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt2lab.archive.experiments import Experiment, find_experiments, read_run_id
from gpt2lab.archive.leftovers import attempts, continuable, is_record, is_superseded, own_file, wrote_nothing
from gpt2lab.archive.manifest import MANIFEST, read_manifest
from gpt2lab.archive.staging import PREFIX, held_orphan
from gpt2lab.archive.verify import verify, walk_files
from gpt2lab.errors import ArchiveError
from gpt2lab.record.disk import disk_errors, file_sha256
from gpt2lab.record.lock import held, is_held
from gpt2lab.record.rundir import DAY_S, RunDir, runs_elsewhere
from gpt2lab.record.sweep import PLAN, Sweep, read_sweep

DELETED = ".deleted-"  # a run directory is renamed to this before it is deleted, so that no half of it looks like a run
_RENAMED_KEYS = ("name", "hypothesis")  # of config.yaml, when a snapshot names the experiment


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedFolder:
    """One folder: whether it can go, and why or why not."""

    path: Path
    kind: str  # run, sweep, staging or deleted
    can_go: bool
    why: str
    bytes: int  # that deleting it frees; a file with links elsewhere frees nothing


@dataclass(slots=True, kw_only=True)
class _Archive:
    """The experiments by run id, and what verifying the few that are asked for gave."""

    by_run: dict[str, list[Experiment]]
    faults: dict[Path, str | None] = field(default_factory=dict)

    def fault(self, path: Path) -> str | None:
        """Return what is wrong with an experiment, weights included; None where it is sound."""
        if path not in self.faults:
            found = verify(path, weights=True).faults
            self.faults[path] = f"{found[0].kind} {found[0].file}" if found else None
        return self.faults[path]


def find_garbage(root: Path, runs: Path) -> list[JudgedFolder]:
    """Return every run, sweep and leftover below `runs` and every staging folder of `root`, each with its verdict.

    Changes nothing. Raises ArchiveError when `runs` lies in the archive, or the disk cannot be read.
    """
    archive = _read_archive(root, runs)
    with disk_errors("read", runs):
        found = [_judge(path, archive) for path in sorted(_walk(runs, root.resolve()))]
    with disk_errors("read", root):
        staging = sorted(path for path in root.iterdir() if path.name.startswith(PREFIX)) if root.is_dir() else []
    return found + [_judge_staging(path) for path in staging]


def delete(root: Path, runs: Path, folders: list[JudgedFolder]) -> Iterator[JudgedFolder]:
    """Delete what `find_garbage` said can go, each judged again while it is locked; yield the outcome of each.

    Raises ArchiveError when the disk refuses.
    """
    archive = _read_archive(root, runs)
    for folder in folders:
        if not folder.can_go:
            continue
        if folder.kind == "staging":
            with held_orphan(folder.path) as orphan:
                if orphan:
                    _remove(folder.path)
            yield _judge_staging(folder.path) if not orphan else folder
        elif folder.kind == "deleted":
            _remove(folder.path)
            yield folder
        else:
            yield _delete_run(folder, archive)


def _delete_run(folder: JudgedFolder, archive: _Archive) -> JudgedFolder:
    with contextlib.ExitStack() as locks:
        try:
            for run_dir in _held_dirs(folder.path):
                locks.enter_context(held(run_dir))
            again = _judge(folder.path, archive, locked=True)
        except ArchiveError as error:
            return JudgedFolder(path=folder.path, kind=folder.kind, can_go=False, why=str(error), bytes=0)
        if again.can_go:
            hidden = folder.path.with_name(f"{DELETED}{uuid.uuid4().hex}")
            with disk_errors("delete", folder.path):
                folder.path.rename(hidden)
            _remove(hidden)
        return again


def _remove(path: Path) -> None:
    with disk_errors("delete", path):
        shutil.rmtree(path)


def _read_archive(root: Path, runs: Path) -> _Archive:
    if runs.resolve().is_relative_to(root.resolve()):
        raise ArchiveError(f"{runs}: lies in the archive {root}; name the folder of the runs with --runs")

    by_run: dict[str, list[Experiment]] = {}
    for experiment in find_experiments(root):
        by_run.setdefault(str(read_run_id(experiment)), []).append(experiment)
    return _Archive(by_run=by_run)


def _walk(directory: Path, root: Path) -> Iterator[Path]:
    """Yield runs, sweeps and leftovers below `directory`, nothing inside of them, and nothing of an archive."""
    for name, subfolders, files in os.walk(directory):
        folder = Path(name)
        if folder.resolve() == root or MANIFEST in files:
            subfolders.clear()
            continue
        if PLAN in files or "status.json" in files:
            yield folder
            subfolders.clear()
        yield from (folder / sub for sub in subfolders if sub.startswith(DELETED))
        subfolders[:] = [sub for sub in subfolders if not sub.startswith(".")]


def _judge_staging(path: Path) -> JudgedFolder:
    with held_orphan(path) as orphan:
        why = "its process died before it was an experiment" if orphan else "a process may be at work in it"
        return JudgedFolder(path=path, kind="staging", can_go=orphan, why=why, bytes=_freed(path))


def _judge(path: Path, archive: _Archive, *, locked: bool = False) -> JudgedFolder:
    if path.name.startswith(DELETED):
        return JudgedFolder(path=path, kind="deleted", can_go=True, why="gc was stopped in it", bytes=_freed(path))
    kind = "sweep" if (path / PLAN).is_file() else "run"
    try:
        can_go, why = _verdict(path, archive, locked)
    except ArchiveError as error:
        can_go, why = False, str(error)
    return JudgedFolder(path=path, kind=kind, can_go=can_go, why=why, bytes=_freed(path))


def _verdict(path: Path, archive: _Archive, locked: bool) -> tuple[bool, str]:
    for run_dir in _held_dirs(path):
        if not locked and is_held(run_dir):
            return False, f"a process is at work in {run_dir}"
        if runs_elsewhere(run_dir, silent_s=DAY_S):
            return False, f"{run_dir} is running on another machine, as far as can be seen from here"
    if (path / PLAN).is_file():
        return _sweep_verdict(read_sweep(path), archive)
    if wrote_nothing(path):
        with disk_errors("read", path):
            own = own_file(path)
        nothing = "it ended before it wrote a row or a checkpoint"
        return (True, nothing) if own is None else (False, f"{nothing}, but holds {own}")
    return _archived(path, str(RunDir(path).read_provenance().get("run_id")), archive, [path])


def _sweep_verdict(sweep: Sweep, archive: _Archive) -> tuple[bool, str]:
    jobs = [sweep.run_dir(job) for job in sweep.jobs]
    can_go, why = _archived(sweep.path, sweep.sweep_id, archive, jobs, passed_over=attempts(sweep))
    for attempt in attempts(sweep) if can_go else ():
        kept = _why_kept(attempt, sweep, archive)
        if kept:
            return False, f"{why}, but {attempt} is an earlier attempt at a job, and {kept}"
    return can_go, why


def _why_kept(attempt: Path, sweep: Sweep, archive: _Archive) -> str:
    """Return why an earlier attempt must stay, and what to do about it; "" where nothing of it is lost."""
    try:
        can_go, why = _verdict(attempt, archive, locked=True)
        if can_go or is_superseded(attempt, sweep):
            return ""
    except ArchiveError as error:
        why = str(error)
    return f"{why}: archive it by itself with gpt2lab snapshot {attempt}, or delete it"


def _archived(
    path: Path, run_id: str, archive: _Archive, run_dirs: list[Path], *, passed_over: list[Path] | None = None
) -> tuple[bool, str]:
    """Whether an experiment holds all of `path` but the folders `passed_over`, and none of `run_dirs` can go on."""
    experiments = archive.by_run.get(run_id, [])
    waiting = continuable(run_dirs)
    why = "not archived"
    if not experiments and (path / "state.safetensors").is_file():
        why = f"not archived, and can be continued with resume={path}"
    for experiment in reversed(experiments):
        fault = archive.fault(experiment.path)
        why = f"{experiment.path.name} is not as it was archived: {fault}" if fault else ""
        why = why or _lacks(experiment.path, path, passed_over or [])
        if not why:
            kept = f"archived as {experiment.path.name}"
            return (True, kept) if waiting is None else (False, f"{kept}, and can be continued with resume={waiting}")
    return False, why


def _held_dirs(path: Path) -> list[Path]:
    """Return what a process may hold of a run or a sweep: itself, and every attempt at a job."""
    return [path, *sorted(folder for folder in path.glob("runs/*") if folder.is_dir() and (path / PLAN).is_file())]


def _lacks(experiment: Path, path: Path, passed_over: list[Path]) -> str:
    """Return what of the run or sweep `path` an experiment that verifies does not hold; "" where it has all of it."""
    manifest = read_manifest(experiment)
    for name, status in walk_files(path):
        if not is_record(name) or any((path / name).is_relative_to(folder) for folder in passed_over):
            continue
        entry: dict[str, Any] = manifest.get(name, {})
        if name.rpartition("/")[2] == "source.tar.gz" and not entry:
            entry = manifest.get("source.tar.gz", {})  # of a sweep, kept once
        if (path / name).is_symlink():
            return f"{name} is a link"
        same = status.st_size == entry.get("bytes") and file_sha256(path / name) == entry.get("sha256")
        if not same and not (name == "config.yaml" and _only_renamed(experiment, path)):
            return f"{name} is not what {experiment.name} holds" if entry else f"{experiment.name} does not hold {name}"
    return ""


def _only_renamed(experiment: Path, path: Path) -> bool:
    one, other = RunDir(experiment).read_config(), RunDir(path).read_config()
    for key in _RENAMED_KEYS:
        one.pop(key, None)
        other.pop(key, None)
    return one == other


def _freed(path: Path) -> int:
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            with contextlib.suppress(FileNotFoundError):  # a living staging folder changes, and ends
                status = (Path(folder) / name).lstat()
                total += status.st_size * (status.st_nlink == 1)
    return total
