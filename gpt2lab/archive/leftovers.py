"""What of a run directory is no record, and what a run or an earlier attempt left that is worth nothing any more.

Nothing is worthless that a person may have put there: a file that gpt2lab does not write itself keeps its folder.
"""

import re
from pathlib import Path

from gpt2lab.archive.verify import walk_files
from gpt2lab.record.metrics import read_metrics
from gpt2lab.record.rundir import RunDir
from gpt2lab.record.sweep import RUNS, Sweep

NOT_RECORD = frozenset({"wandb", "state.safetensors"})  # no experiment takes it over, and no report needs it
_LOG = "output.txt"  # what a job of a parallel sweep printed
_FIRST = re.compile(r"(config|overrides)\.yaml|(provenance|status)\.json|source\.tar\.gz|metrics\.csv|traceback\.txt")
_OUTCOME = re.compile(r"model\.bin|state\.safetensors|samples/sample-[0-9]+\.txt")


def is_record(name: str) -> bool:
    """Whether a file of a run or sweep belongs to its record: hidden files, W&B's, optimizer state and logs do not."""
    parts = name.split("/")
    return not (any(part.startswith(".") or part in NOT_RECORD for part in parts) or _is_log(parts[-1]))


def wrote_nothing(run_dir: Path) -> bool:
    """Whether a run ended before it wrote a row or a checkpoint. Raises ArchiveError for a damaged record."""
    run = RunDir(run_dir)
    finished = run.status.is_file() and run.read_status()["state"] == "finished"
    if finished or run.model.exists() or run.state.exists():
        return False
    return not run.metrics.exists() or not read_metrics(run.metrics)


def own_file(run_dir: Path, *, outcome: bool = False) -> str | None:
    """Return the first visible file that no run writes before its first row, or None; `outcome` allows for what a run
    writes later as well. Raises OSError.
    """
    for name, _ in walk_files(run_dir):
        parts = name.split("/")
        hidden = any(part.startswith(".") for part in parts)
        known = hidden or parts[0] == "wandb" or _FIRST.fullmatch(name) or (len(parts) == 1 and _is_log(name))
        if not known and not (outcome and _OUTCOME.fullmatch(name)):
            return name
    return None


def attempts(sweep: Sweep) -> list[Path]:
    """Return the folders below runs/ that the plan does not name: earlier attempts at its jobs, sorted."""
    planned = {job.folder for job in sweep.jobs}
    folders = (path for path in sorted((sweep.path / RUNS).glob("*")) if path.is_dir() and path.name[0] != ".")
    return [path for path in folders if f"{RUNS}/{path.name}" not in planned]


def is_superseded(attempt: Path, sweep: Sweep) -> bool:
    """Whether an earlier attempt did not finish, a job of the plan with its config did, and it holds nobody's own file.

    Raises ArchiveError for a damaged record.
    """
    run = RunDir(attempt)
    if run.read_status()["state"] == "finished" or own_file(attempt, outcome=True) is not None:
        return False
    if not run.provenance.is_file():
        return False
    config_hash = run.read_provenance().get("config_hash")
    later = (RunDir(sweep.run_dir(job)) for job in sweep.jobs if job.config_hash == config_hash)
    return any(run.status.is_file() and run.read_status()["state"] == "finished" for run in later)


def continuable(run_dirs: list[Path]) -> Path | None:
    """Return the first of some runs that has not finished and can be continued, or None. Raises ArchiveError."""
    for run in map(RunDir, run_dirs):
        if run.state.is_file() and run.read_status()["state"] != "finished":
            return run.path
    return None


def _is_log(name: str) -> bool:
    return name == _LOG or name.endswith(".log")
