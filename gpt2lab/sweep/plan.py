"""Which jobs of a grid run, and where: new ones, those that were not finished, and none a second time.

A job is identified by the hash of its resolved config and of what it reads; its result counts while the code is the
same (see record.identity).
"""

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from gpt2lab.compose import Grid
from gpt2lab.errors import ArchiveError, ConfigError, Gpt2labError
from gpt2lab.record.identity import recorded_code_hash
from gpt2lab.record.provenance import config_hash
from gpt2lab.record.rundir import RunDir, create_unique, now_utc
from gpt2lab.record.sweep import PLAN, RUNS, JobState, Sweep, SweepJob, describe, is_sweep, read_state, read_sweep
from gpt2lab.schema import RunConfig, SweepMode, plain

_MAX_FOLDER = 70  # characters: so that an exported experiment keeps the length of names that a tar allows
_FAILED = ("failed", "diverged")
_OF_ONE_START = ("sweep.mode", "hydra.sweep.dir")  # of one start: not repeated when the sweep is continued


@dataclass(frozen=True, slots=True, kw_only=True)
class Agenda:
    """A sweep and the jobs to run now."""

    sweep: Sweep
    pending: tuple[SweepJob, ...]  # in the order of the grid
    notes: tuple[str, ...]  # lines to print before it starts


def list_jobs(grid: Grid, check: Callable[[RunConfig], dict[str, str]]) -> tuple[list[SweepJob], list[str]]:
    """Return the jobs of a grid without repetitions, and a line for each repeated one.

    `check` returns the hashes of the files that a job reads, or raises the error that would stop it; here it is raised
    for the first such job, with its number.
    """
    jobs: dict[Any, SweepJob] = {}
    repeats = []
    for place, asked in enumerate(grid.jobs):
        try:
            files = check(asked.config)  # first: it resolves names in the config
        except Gpt2labError as error:
            raise type(error)(f"job {place} of the grid ({describe(asked.values)}): {error}") from error
        number = len(jobs)
        job = SweepJob(
            number=number,
            folder=_folder(number, asked.values),
            overrides=asked.overrides,
            values=asked.values,
            config_hash=config_hash(plain(asked.config)),
            files=files,
        )
        same = jobs.setdefault(job.key, job)
        if same is not job:
            repeats.append(f"job {place} of the grid is the same run as job {same.number}: left out")
    return list(jobs.values()), repeats


def find_earlier(root: Path, name: str, jobs: Sequence[SweepJob]) -> Path | None:
    """Return the latest sweep below `root` of this name and with exactly these jobs, or None."""
    wanted = sorted(job.key for job in jobs)
    for plan in sorted(root.glob(f"*/*/{PLAN}"), reverse=True):
        try:
            sweep = read_sweep(plan.parent)
        except ArchiveError:
            continue  # it could not be continued
        if sweep.name == name and sorted(job.key for job in sweep.jobs) == wanted:
            return plan.parent
    return None


def new_directory(root: Path, name: str) -> Path:
    """Make and return the directory of a new sweep below `root`: DATE/TIME-NAME."""
    now = datetime.now()
    return create_unique(root / f"{now:%Y-%m-%d}", f"{now:%H-%M-%S}-{_slug(name) or 'sweep'}")


def plan_sweep(directory: Path, grid: Grid, asked: Sequence[SweepJob], *, code_hash: str) -> Agenda:
    """Return which jobs of `grid` to run in `directory`, given the results of an earlier start there.

    Raises ConfigError for settings of the sweep that fit none of its jobs, ArchiveError when one of them is running.
    """
    config = grid.jobs[0].config
    earlier = read_sweep(directory) if is_sweep(directory) else None
    known = {job.key: job for job in earlier.jobs} if earlier else {}
    jobs, pending, notes = [], [], []
    number = max((job.number for job in known.values()), default=-1) + 1
    for job in asked:
        if job.key not in known:
            job = replace(job, number=number, folder=_folder(number, job.values))
            number += 1
            pending.append(job)
        else:
            # Number and folder stay; in a larger grid other keys may tell it from the other jobs.
            before = known.pop(job.key)
            job = replace(job, number=before.number, folder=before.folder)
            state = read_state(directory / job.folder)
            again = _why_again(directory / job.folder, state, code_hash, config.sweep.mode)
            if again and state.word != "not started":
                job = _moved(directory, job)
                notes.append(f"job {job.number} ({job.label}) runs again: {again}")
            if again is not None:
                pending.append(job)
        jobs.append(job)
    notes += [f"{directory / job.folder} is not a job of this grid: kept, but not counted" for job in known.values()]
    # An override that is given replaces the config's own axis of the same key.
    last = {item.partition("=")[0].lstrip("+"): item for item in grid.overrides}
    overrides = tuple(item for key, item in last.items() if key not in _OF_ONE_START)
    sweep = Sweep(
        path=directory,
        sweep_id=earlier.sweep_id if earlier else uuid4().hex,
        name=config.name or "sweep",
        hypothesis=config.hypothesis,
        tags=tuple(config.tags),
        command=("python", "-m", "gpt2lab.run", "-m", *overrides),
        overrides=overrides,
        varies=grid.varies,
        baseline=read_baseline(config.sweep.baseline, grid),
        metric=config.sweep.metric,
        created=earlier.created if earlier else now_utc(),
        jobs=tuple(jobs),
    )
    return Agenda(sweep=sweep, pending=tuple(pending), notes=tuple(notes))


def can_continue(run_dir: Path) -> bool:
    """Whether a run that was stopped left a checkpoint to go on from."""
    run = RunDir(run_dir)
    return run.status.is_file() and run.state.is_file() and run.model.is_file()


def read_baseline(words: str | None, grid: Grid) -> dict[str, Any]:
    """Return the values that `sweep.baseline` names. Raises ConfigError when no job has them."""
    if words is None:
        return {}
    asked = dict(word.partition("=")[::2] for word in words.split())
    for job in grid.jobs:
        given = dict(item.lstrip("+").partition("=")[::2] for item in job.overrides) | job.values
        if all(key in given and _is_same(given[key], value) for key, value in asked.items()):
            return {key: job.values[key] for key in asked if key in job.values}
    raise ConfigError(
        f"sweep.baseline={words}: no job of the grid has these values; expected KEY=VALUE words, separated by spaces, "
        f"of {', '.join(key for key in grid.varies if key != 'seed') or 'a key that varies'}"
    )


def _is_same(value: Any, typed: str) -> bool:
    """Whether a value of the grid is what a person typed: 0.001 is 1e-3."""
    try:
        return str(value) == typed or float(value) == float(typed)
    except (TypeError, ValueError):
        return False


def _why_again(run_dir: Path, state: JobState, code_hash: str, mode: SweepMode) -> str | None:
    """Return why a job of an earlier start runs from its beginning; "" to continue in its folder, None to keep it."""
    if state.word == "running":
        raise ArchiveError(
            f"{run_dir}: a process is running in it, on this machine or, within the last hour, on another; "
            "wait for it, or stop it first"
        )
    if state.word == "not started":
        return ""
    if mode is SweepMode.force:
        return "sweep.mode=force"
    run = RunDir(run_dir)
    if run.provenance.is_file() and code_hash != recorded_code_hash(run_dir, run.read_provenance(), run.read_status()):
        return "the code has changed since"
    if state.word == "finished":
        return None
    if state.word in _FAILED:
        return f"it {state.word}" if mode is SweepMode.retry_failed else None
    return "" if can_continue(run_dir) else f"it was {state.word} before its first checkpoint"


def _folder(number: int, values: dict[str, Any]) -> str:
    what = describe({key.rpartition(".")[2]: value for key, value in values.items()}) if values else "run"
    return f"{RUNS}/{number}-{_slug(what) or 'run'}"


def _moved(directory: Path, job: SweepJob) -> SweepJob:
    """The job with a new folder for another attempt; the earlier folder stays."""
    stem = re.sub(r"\+\d+$", "", job.folder)
    folders = (f"{stem}+{attempt}" for attempt in itertools.count(2))
    return replace(job, folder=next(folder for folder in folders if not (directory / folder).exists()))


def _slug(text: str) -> str:
    text = text.replace("e+", "e")  # 1e+06; a plus sign counts attempts
    return re.sub(r"[^A-Za-z0-9_.=]+", "-", text).strip("-.")[:_MAX_FOLDER].rstrip("-.")
