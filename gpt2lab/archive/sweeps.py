"""A sweep as one experiment: when it may be archived, and what the files that speak for all of its runs hold.

All of it is computed from sweep.json and the run directories that it names, so it is the same for the sweep below
runs/ and for its copy in the archive.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gpt2lab.errors import ArchiveError
from gpt2lab.record.disk import disk_errors, file_sha256
from gpt2lab.record.identity import recorded_code_hash
from gpt2lab.record.metrics import read_metrics
from gpt2lab.record.provenance import config_hash
from gpt2lab.record.rundir import RunDir
from gpt2lab.record.sweep import PLAN, RUNS, Sweep, SweepJob, Word, count_states, read_state, read_sweep, why_partial
from gpt2lab.record.values import common, is_number

_RECORD = ("config.yaml", "metrics.csv", "provenance.json", "status.json")
_HAD_ITS_TURN = ("finished", "diverged", "failed")
_MOST_NAMED = 5  # jobs in one line of error


def check_sweep(sweep: Sweep, *, allow_unfinished: bool) -> None:
    """Raise ArchiveError when a sweep cannot be archived, naming the job: one is running, one has not run yet
    (unless `allow_unfinished`), a record is damaged or of another config or code than the plan and the others.
    """
    states = {job.number: read_state(sweep.run_dir(job)).word for job in sweep.jobs}
    running = [job for job in sweep.jobs if states[job.number] == "running"]
    if running:
        raise ArchiveError(f"{sweep.path}: running: {_names(running)}; wait for the sweep to end, or stop it first")
    waiting = [job for job in sweep.jobs if states[job.number] not in _HAD_ITS_TURN]
    if waiting and not allow_unfinished:
        words = count_states(states[job.number] for job in waiting)
        said = [f"{word}: {_names([job for job in waiting if states[job.number] == word])}" for word in words]
        raise ArchiveError(
            f"{sweep.path}: {len(waiting)} of its {len(sweep.jobs)} jobs did not come to an end ({'; '.join(said)}): "
            "continue it by running the same command again, or archive it as it is with --force"
        )
    for job in sweep.jobs:
        _check_job(sweep, job, states[job.number])
    if not any(has_record(sweep.run_dir(job)) for job in sweep.jobs):
        raise ArchiveError(
            f"{sweep.path}: none of its {len(sweep.jobs)} jobs left a record; there is nothing to archive"
        )
    _check_code(sweep)


def has_record(run_dir: Path) -> bool:
    """Whether a job got as far as to leave a config, metrics, a provenance and a status."""
    return all((run_dir / name).is_file() for name in _RECORD)


def shared_config(sweep: Sweep) -> dict[str, Any]:
    """Return what the configs of all runs have in common, nested, under the sweep's own name and hypothesis."""
    configs = [run.read_config() for run in _runs(sweep) if run.config.is_file()]
    named = {"name": sweep.name, "hypothesis": sweep.hypothesis}
    return {**named, **common(configs), **named}


def shared_provenance(sweep: Sweep) -> dict[str, Any]:
    """Return what the provenances of all runs have in common, nested, under the id and command of the sweep.

    `config_hash` is the SHA-256 of the sorted config hashes of all jobs of the plan, one a line.
    """
    provenances = [run.read_provenance() for run in _runs(sweep) if run.provenance.is_file()]
    hashes = "\n".join(sorted(job.config_hash for job in sweep.jobs))
    of_the_sweep = {
        "run_id": sweep.sweep_id,
        "command": list(sweep.command),
        "config_hash": hashlib.sha256(hashes.encode()).hexdigest(),
    }
    return {**of_the_sweep, **common(provenances), **of_the_sweep}


def sweep_status(sweep: Sweep) -> dict[str, Any]:
    """Return status.json of a sweep: how many jobs came to which end, first start, last end, seconds of training.

    `step` is a digest that is another one as soon as the state or the rows of any job are: with it the same sweep,
    continued since, is known to be another result.
    """
    words: list[Word] = []
    digest = hashlib.sha256()
    statuses = []
    for job in sorted(sweep.jobs, key=lambda job: job.number):  # the same grid may come in another order
        run = RunDir(sweep.run_dir(job))
        word = read_state(run.path).word
        words.append(word)
        with disk_errors("read", run.metrics):
            rows = file_sha256(run.metrics) if run.metrics.is_file() else ""
        digest.update(f"{job.number} {word} {rows}\n".encode())
        if run.status.is_file():
            statuses.append(run.read_status())
    jobs = count_states(words)
    reason = why_partial(jobs)
    return {
        "state": "partial" if reason else "finished",
        "reason": reason,
        "started": min((str(s["started"]) for s in statuses if s.get("started")), default=None),
        "ended": max((str(s["ended"]) for s in statuses if s.get("ended")), default=None),
        "training_s": sum(s["training_s"] for s in statuses if is_number(s.get("training_s"))),
        "jobs": jobs,
        "step": digest.hexdigest()[:16],
    }


def plan_faults(directory: Path, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield (file, why) of each run config that is not the one the plan of the sweep in `directory` has for its job.

    `names` are the files of the experiment, as its manifest lists them, whose configs may be read. Raises ArchiveError
    for a plan that cannot be read.
    """
    sweep = read_sweep(directory)
    planned = {job.folder for job in sweep.jobs}
    listed = set(names)
    for folder in sorted({"/".join(name.split("/")[:2]) for name in listed if name.startswith(f"{RUNS}/")} - planned):
        yield folder, f"{PLAN} has no such job"
    for job in sweep.jobs:
        name = f"{job.folder}/config.yaml"
        if name in listed and (why := _why_another(sweep, job)):
            yield name, why


def status_words(summary: dict[str, Any]) -> Any:
    """Return the status that a list shows: of a sweep how many jobs finished, `15 of 18 finished`."""
    jobs = summary.get("jobs")
    if summary.get("kind") != "sweep" or not isinstance(jobs, dict):
        return summary.get("status")
    counts = {word: count for word, count in jobs.items() if is_number(count)}
    return f"{counts.get('finished', 0)} of {sum(counts.values())} finished"


def _check_job(sweep: Sweep, job: SweepJob, word: Word) -> None:
    run = RunDir(sweep.run_dir(job))
    missing = [name for name in _RECORD if not (run.path / name).is_file()]
    if missing and word == "finished":
        raise ArchiveError(f"{run.path}: the record of the run lacks {', '.join(missing)}; it cannot be archived")
    if run.metrics.is_file():
        read_metrics(run.metrics)
    if run.config.is_file() and (why := _why_another(sweep, job)):
        raise ArchiveError(f"{run.config}: {why}; one experiment holds the runs of one plan")


def _why_another(sweep: Sweep, job: SweepJob) -> str | None:
    """Return why the config in the folder of a job is not the one that was planned for it, or None."""
    path = sweep.run_dir(job) / "config.yaml"
    found = config_hash(RunDir(path.parent).read_config())
    if found == job.config_hash:
        return None
    other = next((other for other in sweep.jobs if other.config_hash == found), None)
    whose = f"it is the one of job {other.number}, {other.folder}" if other else f"its hash is {found[:12]}"
    return f"not the config that {PLAN} has for job {job.number} (hash {str(job.config_hash)[:12]}): {whose}"


def _check_code(sweep: Sweep) -> None:
    """Raise ArchiveError naming two runs that different code made; one source.tar.gz cannot stand for both."""
    first: tuple[SweepJob, str | None] | None = None
    for job in sweep.jobs:
        run = RunDir(sweep.run_dir(job))
        if not run.provenance.is_file():
            continue
        status = run.read_status() if run.status.is_file() else {}
        found = recorded_code_hash(run.path, run.read_provenance(), status)
        if first is None:
            first = (job, found)
        elif found != first[1]:
            raise ArchiveError(
                f"{sweep.path}: {first[0].folder} and {job.folder} were made by different code "
                f"({str(first[1])[:12]} and {str(found)[:12]}): run the same command again, it makes those of the "
                "earlier code anew"
            )


def _runs(sweep: Sweep) -> list[RunDir]:
    return [RunDir(sweep.run_dir(job)) for job in sweep.jobs]


def _names(jobs: list[SweepJob]) -> str:
    names = ", ".join(job.folder.removeprefix(f"{RUNS}/") for job in jobs[:_MOST_NAMED])
    more = len(jobs) - _MOST_NAMED
    return names if more <= 0 else f"{names} and {more} more"
