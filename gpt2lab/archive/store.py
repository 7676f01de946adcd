"""The archive: finished runs and sweeps become experiments, numbered directories that are complete or not there at all.

An experiment is put together in a hidden staging folder, reported on, listed in its manifest, and only then given
the next number by one rename under the lock of the archive. A process that dies on the way leaves a staging folder,
which nothing looks at.
"""

import contextlib
import os
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gpt2lab.archive.experiments import NUMBER, find_experiments, list_provenance, read_run_id
from gpt2lab.archive.manifest import write_manifest
from gpt2lab.archive.staging import staging_folder, unchanged
from gpt2lab.archive.sweeps import check_sweep, shared_config, shared_provenance, sweep_status
from gpt2lab.errors import ArchiveError
from gpt2lab.record.disk import disk_errors, fsync_directory, json_bytes, link_or_copy, read_json, write_atomic
from gpt2lab.record.lock import LOCK, is_held, locked
from gpt2lab.record.metrics import read_metrics
from gpt2lab.record.rundir import RunDir, runs_elsewhere
from gpt2lab.record.sweep import PLAN, is_sweep, read_sweep

_REQUIRED = ("config.yaml", "metrics.csv", "provenance.json")
_OF_EACH_RUN = (*_REQUIRED, "status.json", "overrides.yaml")
_COPIED = (*_OF_EACH_RUN, "source.tar.gz", "notes.md")
_MAX_SLUG = 60

NOTES = """\
# Notes

<!-- Yours: the report takes these words over and never changes this file. A heading without text is left out. -->

## Question

## Observations

## Conclusion

## Next
"""


def create(
    run_dir: Path,
    root: Path,
    *,
    name: str,
    hypothesis: str | None,
    write_report: Callable[[Path, str], None],
    complete_sweep: Callable[[Path, list[tuple[Path, dict[str, Any]]]], None] | None = None,
    force: bool = False,
    allow_unfinished: bool = False,
) -> Path:
    """Archive the run or the sweep in `run_dir` as the next experiment below `root`; return its directory.

    `name` and `hypothesis` (None: as the run had it) go into the config.yaml of the experiment; the run directory
    is only read. `write_report(directory, title)` writes README.md, summary.json and figures/ into the directory
    it is given. `complete_sweep(directory, archive)` adds to the record of a sweep, before its report, what follows
    from the archive at that moment: (directory, provenance) of each experiment. `allow_unfinished` archives a result
    that has not ended as well; `force` does too, and archives the same result once more.

    Raises ArchiveError when `run_dir` holds no run, a process is at work in it, the run is not finished or a job of the
    sweep has not run yet, it is archived already, or the disk is full; the archive is then as it was.
    """
    of_sweep = is_sweep(run_dir)
    action = f"copy the {'sweep' if of_sweep else 'run'} into"
    with contextlib.ExitStack() as stack:
        with unchanged(run_dir):  # what is checked is what is copied
            if of_sweep:
                check_sweep(read_sweep(run_dir), allow_unfinished=force or allow_unfinished)
            else:
                _check(RunDir(run_dir), allow_unfinished=force or allow_unfinished)
            run_id, step = _identify(run_dir)
            with disk_errors("create experiment", root):
                root.mkdir(parents=True, exist_ok=True)
            _refuse_twice(root, run_id, step, force)
            staging = stack.enter_context(staging_folder(root, action))
            with disk_errors(action, staging):
                if of_sweep:
                    _copy_sweep(run_dir, staging)
                else:
                    _copy(RunDir(run_dir), staging, _COPIED)
                if not (staging / "notes.md").exists():
                    (staging / "notes.md").write_text(NOTES, encoding="utf-8")
        _rename_run(staging, name, hypothesis)
        if of_sweep and complete_sweep is not None:
            complete_sweep(staging, list_provenance(root))
        with disk_errors("write the report into", staging):
            write_report(staging, name)
        write_manifest(staging)
        return claim_number(staging, root, slug(name), run_id=run_id, step=step, force=force)


def archived_as(directory: Path, root: Path) -> Path | None:
    """Return the experiment below `root` that holds the run or sweep in `directory` as it is now, or None.

    Raises ArchiveError for a record that cannot be read.
    """
    return _find(root, *_identify(directory))


def claim_number(staging: Path, root: Path, name: str, *, run_id: object, step: object, force: bool) -> Path:
    """Make the complete folder `staging` the next experiment below `root`, by one rename; return NNNNN-`name`.

    Raises ArchiveError when the run `run_id` is there already, stopped at the same `step`, unless `force`.
    """
    with lock(root), disk_errors("create experiment", root):
        _sync(staging)
        _refuse_twice(root, run_id, step, force)
        numbers = (NUMBER.match(path.name) for path in root.iterdir())  # a file or a link takes one as well
        highest = max((int(match[1]) for match in numbers if match), default=0)
        path = root / f"{highest + 1:05d}-{name}"
        staging.rename(path)
        fsync_directory(root)
    return path


@contextlib.contextmanager
def lock(root: Path) -> Iterator[None]:
    """Wait until no other process changes the archive below `root`, and keep others out of the block."""
    with contextlib.ExitStack() as stack:
        with disk_errors("lock", root):
            stack.enter_context(locked(root / LOCK))
        yield


def slug(name: str) -> str:
    """Return `name` as lowercase ASCII words joined by hyphens, at most 60 characters, never empty."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    words = re.findall(r"[a-z0-9]+", ascii_name)
    result = "-".join(words)
    if len(result) > _MAX_SLUG:
        # At a word's end, unless the first word alone is too long.
        result = result[:_MAX_SLUG].rpartition("-")[0] or result[:_MAX_SLUG]
    return result or "experiment"


def _check(run: RunDir, *, allow_unfinished: bool) -> None:
    if not run.status.is_file():
        raise ArchiveError(f"{run.path} is not a run directory: it has no status.json")
    missing = [file for file in _REQUIRED if not (run.path / file).is_file()]
    if missing:
        raise ArchiveError(f"{run.path}: the record of the run lacks {', '.join(missing)}; it cannot be archived")
    if is_held(run.path) or runs_elsewhere(run.path):
        raise ArchiveError(f"{run.path}: a process is running in it; wait for it, or stop it first")
    read_metrics(run.metrics)
    status = run.read_status()
    if status["state"] != "finished" and not allow_unfinished:
        reason = f" ({status['reason']})" if status.get("reason") else ""
        raise ArchiveError(
            f"{run.path}: the run is {status['state']}{reason}, not finished: continue it with resume={run.path}, "
            "or archive it as it is with --force"
        )


def _identify(directory: Path) -> tuple[object, object]:
    """Return the id of a run or a sweep, and what tells apart where it stopped."""
    if is_sweep(directory):
        sweep = read_sweep(directory)
        return sweep.sweep_id, sweep_status(sweep)["step"]
    run = RunDir(directory)
    return run.read_provenance().get("run_id"), run.read_status().get("step")


def _refuse_twice(root: Path, run_id: object, step: object, force: bool) -> None:
    """Raise ArchiveError for a result that is there already; what was continued since is another one."""
    found = None if force else _find(root, run_id, step)
    if found is not None:
        what = "sweep" if is_sweep(found) else "run"
        raise ArchiveError(f"this {what} is archived already, as {found.name}; --force archives it once more")


def _find(root: Path, run_id: object, step: object) -> Path | None:
    for experiment in find_experiments(root) if run_id is not None else ():
        with contextlib.suppress(ArchiveError):  # damaged: its result is not the same as any other
            if read_run_id(experiment) == run_id and read_json(experiment.path / "status.json").get("step") == step:
                return experiment.path
    return None


def _copy_sweep(directory: Path, staging: Path) -> None:
    """Copy the plan and the runs that it names, and write the files that speak for all of them."""
    sweep = read_sweep(directory)
    sources = [directory, *(sweep.run_dir(job) for job in sweep.jobs)]  # one stands for all: their code is the same
    for name, folders in ((PLAN, [directory]), ("notes.md", [directory]), ("source.tar.gz", sources)):
        found = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if found is not None:
            shutil.copyfile(found, staging / name)
    for job in sweep.jobs:
        run = RunDir(sweep.run_dir(job))
        if run.status.is_file():
            (staging / job.folder).mkdir(parents=True)
            _copy(run, staging / job.folder, _OF_EACH_RUN)
    copied, record = read_sweep(staging), RunDir(staging)
    record.write_config(shared_config(copied))
    record.write_overrides(list(copied.overrides))
    record.write_provenance(shared_provenance(copied))
    write_atomic(record.status, json_bytes(sweep_status(copied)))


def _copy(run: RunDir, staging: Path, files: tuple[str, ...]) -> None:
    for file in files:
        if (run.path / file).is_file():
            shutil.copyfile(run.path / file, staging / file)
    if run.samples.is_dir():
        (staging / "samples").mkdir()
        for sample in sorted(run.samples.iterdir()):
            if sample.is_file() and not sample.name.startswith("."):  # of the file system, as .DS_Store
                shutil.copyfile(sample, staging / "samples" / sample.name)
    if run.model.is_file():
        # A later checkpoint of the run replaces its model.bin by a rename, so this one stays as it is.
        link_or_copy(run.model.resolve(), staging / "model.bin")


def _rename_run(staging: Path, name: str, hypothesis: str | None) -> None:
    record = RunDir(staging)
    config: dict[str, Any] = record.read_config()
    changed = {**config, "name": name, "hypothesis": hypothesis or config.get("hypothesis")}
    if changed != config:
        record.write_config(changed)


def _sync(directory: Path) -> None:
    """Have every file on the disk before the rename that makes them an experiment."""
    for path in sorted(directory.rglob("*")):
        if path.is_dir():
            fsync_directory(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())
    fsync_directory(directory)
