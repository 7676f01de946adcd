"""A sweep on disk: `sweep.json`, the plan of its jobs, and below `runs/` the run directory of each.

The plan is written before the first job starts. The status of a job stands in its own directory, so a sweep is put
together from the disk alone, whoever ran its jobs, and after any death of any process.
"""

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from gpt2lab.errors import ArchiveError, DivergedError
from gpt2lab.record.disk import check_version, json_bytes, read_json, write_atomic
from gpt2lab.record.lock import is_held
from gpt2lab.record.rundir import RunDir, runs_elsewhere

PLAN = "sweep.json"
RUNS = "runs"
VERSION = 1
_LISTS = ("tags", "command", "overrides", "varies")
Word = Literal["finished", "diverged", "failed", "interrupted", "killed", "running", "not started"]
WORDS: tuple[Word, ...] = get_args(Word)  # in the order in which they are told


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepJob:
    """One run of the plan."""

    number: int
    folder: str  # of its run directory, below the sweep's: runs/NUMBER-WHAT-VARIES
    overrides: tuple[str, ...]  # the whole command line of this job
    values: dict[str, Any]  # what sets it apart: override key -> plain value, in the order of Sweep.varies
    config_hash: str  # see record.provenance
    files: dict[str, str] = field(default_factory=dict)  # name -> sha256 of the data and the weights it starts from

    @property
    def key(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """Equal for two jobs that compute the same, the source given."""
        return self.config_hash, tuple(sorted(self.files.items()))

    @property
    def label(self) -> str:
        """What tells the job from the others, in words."""
        return describe(self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """The plan of a sweep."""

    path: Path  # the directory; not written
    sweep_id: str
    name: str
    hypothesis: str | None
    tags: tuple[str, ...]
    command: tuple[str, ...]  # that runs it
    overrides: tuple[str, ...]  # of the command, with the grid in them
    varies: tuple[str, ...]  # override keys that differ between jobs, in the order given; the seed is one of them
    baseline: dict[str, Any]  # values that choose the arm that the others are compared with; {}: the first
    metric: str  # a column of metrics.csv
    created: str  # ISO 8601, UTC
    jobs: tuple[SweepJob, ...]

    def run_dir(self, job: SweepJob) -> Path:
        """The run directory of a job, which need not be there yet."""
        return self.path / job.folder


@dataclass(frozen=True, slots=True)
class JobState:
    """The status of a job: `killed` says running, but no process holds it any more."""

    word: Word
    reason: str | None = None


def describe(values: dict[str, Any]) -> str:
    """Return the values that set a job apart as a person would type them: weight_decay=0.3 seed=1."""
    return " ".join(f"{key}={typed(value)}" for key, value in values.items()) or "the only one"


def typed(value: Any) -> str:
    """Return a setting as a person would type it: 0 for 0.0, null for None."""
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def short_keys(keys: Iterable[str]) -> dict[str, str]:
    """Return {override key: its last part}, the whole key where another of `keys` ends alike."""
    last = {key: key.rpartition(".")[2] for key in keys}
    ends = list(last.values())
    return {key: end if end and ends.count(end) == 1 else key for key, end in last.items()}


def count_states(words: Iterable[Word]) -> dict[str, int]:
    """Return how many jobs are in which state, finished first; only states that occur."""
    found = Counter(words)
    return {word: found[word] for word in WORDS if found[word]}


def why_partial(counts: Mapping[str, int]) -> str | None:
    """Return `15 of 18 jobs finished; 1 diverged, 2 not started`; None when all of them finished."""
    done, total = counts.get("finished", 0), sum(counts.values())
    others = ", ".join(f"{number} {word}" for word, number in counts.items() if word != "finished")
    return f"{done} of {total} jobs finished; {others}" if others else None


def write_sweep(sweep: Sweep) -> None:
    """Write sweep.json. Raises ArchiveError."""
    content = {key: value for key, value in asdict(sweep).items() if key != "path"}
    write_atomic(sweep.path / PLAN, json_bytes({"version": VERSION, **content}))


def is_sweep(directory: Path) -> bool:
    """Whether `directory` holds a sweep."""
    return (directory / PLAN).is_file()


def read_sweep(directory: Path) -> Sweep:
    """Return the sweep in `directory`. Raises ArchiveError: missing, damaged, or of a version not known here."""
    path = directory / PLAN
    content = read_json(path)
    check_version(path, content.pop("version", None), VERSION)
    try:
        jobs = tuple(SweepJob(**job | {"overrides": tuple(map(str, job["overrides"]))}) for job in content.pop("jobs"))
        lists: dict[str, Any] = {key: tuple(map(str, content.pop(key))) for key in _LISTS}
        sweep = Sweep(path=directory, jobs=jobs, **lists, **content)
    except (KeyError, TypeError, AttributeError) as error:
        raise ArchiveError(f"{path}: damaged, it does not hold the plan of a sweep ({error})") from None
    numbers, folders = {job.number for job in jobs}, {job.folder for job in jobs}
    if not jobs or len(numbers) < len(jobs) or len(folders) < len(jobs):
        raise ArchiveError(f"{path}: damaged, expected jobs with a number and a folder of their own each")
    return sweep


def read_state(run_dir: Path) -> JobState:
    """Return the status of the job in `run_dir`. Raises ArchiveError for a damaged status.json."""
    run = RunDir(run_dir)
    if not run.status.is_file():
        return JobState("not started")
    status = run.read_status()
    reason = None if status.get("reason") is None else str(status["reason"])
    if status["state"] == "failed" and status.get("exit_code") == DivergedError.exit_code:
        return JobState("diverged", reason)
    if status["state"] != "running":
        return JobState(status["state"], reason)
    if is_held(run_dir):
        return JobState("running")
    if runs_elsewhere(run_dir):
        return JobState("running", "on another machine, as far as can be seen from here")
    return JobState("killed", "its process ended without a word; the rows it wrote are there")


def sweep_of(run_dir: Path) -> Path | None:
    """Return the directory of the sweep that a run directory belongs to, or None for a run of its own."""
    sweep = run_dir.parent.parent
    return sweep if run_dir.parent.name == RUNS and is_sweep(sweep) else None


def find_results(directory: Path) -> list[Path]:
    """Return the sweeps, and the runs that belong to none, at or below `directory`, sorted by path.

    Hidden folders are passed over, and so is all that lies inside of a sweep or a run.
    """
    found = []
    for folder, subfolders, files in os.walk(directory):
        if PLAN in files or "status.json" in files:
            found.append(Path(folder))
            subfolders.clear()
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
    return sorted(found)


def latest_result(runs_root: Path) -> Path | None:
    """Return the run or sweep below `runs_root` that started or ended last, or None; damaged ones are passed over."""
    latest: tuple[str, Path] | None = None
    for path in find_results(runs_root):
        with contextlib.suppress(ArchiveError):
            if is_sweep(path):
                sweep = read_sweep(path)
                moment = max([str(sweep.created), *(_moment(sweep.run_dir(job)) for job in sweep.jobs)])
            elif (path / "config.yaml").exists():
                moment = _moment(path)
            else:
                continue  # refused before it began
            latest = (moment, path) if latest is None else max(latest, (moment, path))
    return latest[1] if latest else None


def _moment(run_dir: Path) -> str:
    """When a run ended or else started, as text that sorts by time; "" for one that is not there."""
    run = RunDir(run_dir)
    if not run.status.is_file():
        return ""
    status = run.read_status()
    return str(status.get("ended") or status.get("started") or "")
