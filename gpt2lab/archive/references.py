"""What a person names on the command line: an experiment, or one run of a sweep, as EXPERIMENT/JOB."""

import re
from pathlib import Path

from gpt2lab.archive.experiments import find_experiments, resolve_experiment, split_ref
from gpt2lab.archive.sweeps import has_record
from gpt2lab.errors import ArchiveError
from gpt2lab.record.sweep import RUNS, Sweep, is_sweep, read_sweep

_MOST_NAMED = 8  # jobs in one line of error


def resolve(root: Path, ref: str) -> Path:
    """Return the experiment that `ref` names, or for `5/3` the directory of job 3 of the sweep that is experiment 5.

    The job is given by its number or the name of its folder. Raises ArchiveError, saying what there is, when `ref`
    names nothing or several, and for a job that left nothing.
    """
    head, job = split_ref(ref)
    if not head:
        return resolve_experiment(root, ref)
    try:
        return resolve_experiment(root, ref)  # a path, or a name with a slash in it
    except ArchiveError as error:
        if not find_experiments(root):
            raise
        try:
            experiment = resolve_experiment(root, head)
        except ArchiveError:
            raise error from None
    if not is_sweep(experiment):
        raise ArchiveError(f"{ref!r}: {experiment.name} is a single run, it has no jobs: name it as {experiment.name}")
    return _job_directory(read_sweep(experiment), job)


def resolve_run(root: Path, ref: str) -> Path:
    """Return the directory of the one run that `ref` names. Raises ArchiveError, naming the jobs, for a whole sweep."""
    path = resolve(root, ref)
    if is_sweep(path):
        raise ArchiveError(
            f"{path.name} is a sweep of {len(read_sweep(path).jobs)} runs, expected one of them, {ref}/JOB: "
            f"{_jobs(read_sweep(path))}"
        )
    return path


def expand(root: Path, ref: str) -> list[Path]:
    """Return the directories of the runs that `ref` names: of a sweep those that left a record, else the one run.

    Raises ArchiveError as `resolve`, and for a sweep without a record.
    """
    path = resolve(root, ref)
    if not is_sweep(path):
        return [path]
    sweep = read_sweep(path)
    runs = [sweep.run_dir(job) for job in sweep.jobs if has_record(sweep.path / job.folder)]
    if not runs:
        raise ArchiveError(f"{path.name}: none of its {len(sweep.jobs)} jobs left a record")
    return runs


def _job_directory(sweep: Sweep, name: str) -> Path:
    found = [
        job
        for job in sweep.jobs
        if name == job.folder.removeprefix(f"{RUNS}/") or (name.isdecimal() and int(name) == job.number)
    ]
    if len(found) != 1:
        raise ArchiveError(f"{sweep.path.name} has no job {name[:80]!r}; there are {_jobs(sweep)}")
    path = sweep.run_dir(found[0])
    if not path.is_dir():
        raise ArchiveError(f"{sweep.path.name}: job {found[0].number} ({found[0].folder}) left nothing: it never began")
    return path


def _jobs(sweep: Sweep) -> str:
    """Name the first jobs by number and what varies."""
    names = ", ".join(job.folder.removeprefix(f"{RUNS}/") for job in sweep.jobs[:_MOST_NAMED])
    more = len(sweep.jobs) - _MOST_NAMED
    return names if more <= 0 else f"{names} and {more} more, up to {sweep.jobs[-1].number}"


def starting_weights(root: Path, init_from: str | None) -> str | None:
    """Return what model.init_from names; an experiment's number (of a sweep 5/3) or a folder as its model.bin.

    Raises ArchiveError when there is no such experiment, or when its weights are missing.
    """
    if init_from is None:
        return None
    numbered = init_from.isdigit() or (re.fullmatch(r"[0-9]+/[0-9]+", init_from) and not Path(init_from).exists())
    if not numbered and not Path(init_from).is_dir():
        return init_from
    return str(weights_of(resolve_run(root, init_from) if numbered else Path(init_from)))


def weights_of(run_dir: Path) -> Path:
    """Return the weights file of a run or of an experiment with one run. Raises ArchiveError when it is missing."""
    weights = run_dir / "model.bin"
    if not weights.is_file():
        raise ArchiveError(f"{weights}: missing; weights are kept out of git, so a clone does not have them")
    return weights
