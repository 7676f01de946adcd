"""The archive: finished runs become experiments, numbered directories that are complete or not there at all.

An experiment is put together in a hidden staging folder, reported on, listed in its manifest, and only then given
the next number by one rename under the lock of the archive. A process that dies on the way leaves a staging folder,
which nothing looks at.
"""

import contextlib
import fcntl
import os
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gpt2lab.archive.experiments import find_experiments, read_run_id
from gpt2lab.archive.manifest import write_manifest
from gpt2lab.archive.staging import staging_folder, unchanged
from gpt2lab.errors import ArchiveError
from gpt2lab.record.disk import disk_errors, fsync_directory
from gpt2lab.record.metrics import read_metrics
from gpt2lab.record.rundir import RunDir

_REQUIRED = ("config.yaml", "metrics.csv", "provenance.json")
_COPIED = (*_REQUIRED, "status.json", "overrides.yaml", "source.tar.gz", "notes.md")
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
    force: bool = False,
) -> Path:
    """Archive the run in `run_dir` as the next experiment below `root`; return its directory.

    `name` and `hypothesis` (None: as the run had it) go into the config.yaml of the experiment; the run directory
    is only read. `write_report(directory, title)` writes README.md, summary.json and figures/ into the directory
    it is given. `force` archives a run again, and one that is not finished.

    Raises ArchiveError when `run_dir` holds no run, the run is not finished, is archived already, or the disk is
    full; the archive is then as it was.
    """
    run = RunDir(run_dir)
    _check(run, force)
    run_id = run.read_provenance().get("run_id")
    with disk_errors("create experiment", root):
        root.mkdir(parents=True, exist_ok=True)
    step = run.read_status().get("step")
    _refuse_twice(root, run_id, step, force)
    with staging_folder(root, "copy the run into") as staging:
        with disk_errors("copy the run into", staging), unchanged(run_dir):
            _copy(run, staging)
        _rename_run(staging, name, hypothesis)
        with disk_errors("write the report into", staging):
            write_report(staging, name)
        write_manifest(staging)
        return claim_number(staging, root, slug(name), run_id=run_id, step=step, force=force)


def claim_number(staging: Path, root: Path, name: str, *, run_id: object, step: object, force: bool) -> Path:
    """Make the complete folder `staging` the next experiment below `root`, by one rename; return NNNNN-`name`.

    Raises ArchiveError when the run `run_id` is there already, stopped at the same `step`, unless `force`.
    """
    with lock(root), disk_errors("create experiment", root):
        _sync(staging)
        _refuse_twice(root, run_id, step, force)
        path = root / f"{_highest_number(root) + 1:05d}-{name}"
        staging.rename(path)
        fsync_directory(root)
    return path


def _highest_number(root: Path) -> int:
    """Return the highest number that any name in the archive begins with: a file or a link takes one as well."""
    numbers = (re.match(r"(\d{5,12})-", path.name) for path in root.iterdir())
    return max((int(match[1]) for match in numbers if match), default=0)


@contextlib.contextmanager
def lock(root: Path) -> Iterator[None]:
    """Wait until no other process changes the archive below `root`, and keep others out of the block."""
    with disk_errors("lock", root):
        descriptor = os.open(root / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with disk_errors("lock", root):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def slug(name: str) -> str:
    """Return `name` as lowercase ASCII words joined by hyphens, at most 60 characters, never empty."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    words = re.findall(r"[a-z0-9]+", ascii_name)
    result = "-".join(words)
    if len(result) > _MAX_SLUG:
        # At a word's end, unless the first word alone is too long.
        result = result[:_MAX_SLUG].rpartition("-")[0] or result[:_MAX_SLUG]
    return result or "experiment"


def _check(run: RunDir, force: bool) -> None:
    if not run.status.is_file():
        raise ArchiveError(f"{run.path} is not a run directory: it has no status.json")
    missing = [file for file in _REQUIRED if not (run.path / file).is_file()]
    if missing:
        raise ArchiveError(f"{run.path}: the record of the run lacks {', '.join(missing)}; it cannot be archived")
    read_metrics(run.metrics)
    status = run.read_status()
    if status["state"] != "finished" and not force:
        reason = f" ({status['reason']})" if status.get("reason") else ""
        raise ArchiveError(
            f"{run.path}: the run is {status['state']}{reason}, not finished: continue it with resume={run.path}, "
            "or archive it as it is with --force"
        )


def _refuse_twice(root: Path, run_id: object, step: object, force: bool) -> None:
    """Raise ArchiveError for a run that is there already; a run that was continued since is another result."""
    if force or run_id is None:
        return
    for experiment in find_experiments(root):
        if read_run_id(experiment) == run_id and RunDir(experiment.path).read_status().get("step") == step:
            raise ArchiveError(
                f"this run is archived already, as {experiment.path.name}; --force archives it once more"
            )


def _copy(run: RunDir, staging: Path) -> None:
    for file in _COPIED:
        if (run.path / file).is_file():
            shutil.copyfile(run.path / file, staging / file)
    if run.samples.is_dir():
        (staging / "samples").mkdir()
        for sample in sorted(run.samples.iterdir()):
            if sample.is_file():
                shutil.copyfile(sample, staging / "samples" / sample.name)
    if run.model.is_file():
        try:
            # A later checkpoint of the run replaces its model.bin by a rename, so this one stays as it is.
            os.link(run.model.resolve(), staging / "model.bin")
        except OSError:  # another file system, or one without links
            shutil.copyfile(run.model, staging / "model.bin")
    if not (staging / "notes.md").exists():
        (staging / "notes.md").write_text(NOTES, encoding="utf-8")


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
