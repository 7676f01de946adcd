"""`python -m gpt2lab.run [overrides]`: compose a config, train, archive and report. Only wires the parts together."""

import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from gpt2lab import compose
from gpt2lab.archive import archived_as, check_root, create, starting_weights, write_index
from gpt2lab.compose import Grid, Job
from gpt2lab.errors import ArchiveError
from gpt2lab.schema import ArchiveMode, RunConfig


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for and return the exit code."""
    return compose.main(run_job, run_grid, arguments)


def run_job(job: Job) -> int:
    """Train one composed job, archive it when it has finished, say where everything is; return the exit code."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if job.config.archive.mode is ArchiveMode.auto:
        check_root(Path(job.config.archive.root))
    code = train_job(job, console)
    if code == 0:
        archive(job.run_dir, job.config, name=job.config.name or job.run_dir.name, console=console)
    return code


def train_job(job: Job, console: Console) -> int:
    """Train one composed job; return the exit code."""
    # Imported late: torch takes seconds that --help and a mistyped key should not wait for.
    from gpt2lab.train import execute

    console.print(f"run      {job.run_dir}")
    find_weights(job.config)
    command = ["python", "-m", "gpt2lab.run", *job.overrides]
    outcome = execute(job.config, job.run_dir, overrides=job.overrides, command=command, console=console)
    return 130 if outcome.state == "interrupted" else 0


def run_grid(grid: Grid) -> int:
    """Run what is missing of a sweep, and archive it when all its jobs had their turn; return the exit code."""
    from gpt2lab.sweep import run_sweep
    from gpt2lab.train import RunChecks

    console = Console(highlight=False, markup=False, soft_wrap=True)
    config, checks = grid.jobs[0].config, RunChecks()
    if config.archive.mode is ArchiveMode.auto:
        check_root(Path(config.archive.root))

    def check(config: RunConfig) -> dict[str, str]:
        find_weights(config)
        return checks.check(config, elsewhere=grid.elsewhere)

    result = run_sweep(grid, check=check, execute=train_job, console=console)
    path = result.sweep.path
    if not result.has_ended:
        console.print(f"continue python -m gpt2lab.run resume={path}  (as it is: gpt2lab snapshot {path} --force)")
    else:
        archive(path, config, name=result.sweep.name, console=console)
    return result.exit_code


def archive(directory: Path, config: RunConfig, *, name: str, console: Console) -> None:
    """Archive a run or a sweep, whose jobs all had their turn, and say where; the same result only once."""
    from gpt2lab.report import write_report
    from gpt2lab.report.comparison.sweep_results import freeze_noise

    if config.archive.mode is ArchiveMode.off:
        return
    root = Path(config.archive.root)
    if (path := archived_as(directory, root)) is not None:
        console.print(f"archived already as {path}")
        return

    options: dict[str, Any] = {"name": name, "hypothesis": config.hypothesis, "allow_unfinished": True}
    try:
        path = create(directory, root, write_report=write_report, complete_sweep=freeze_noise, **options)
        write_index(root)
    except ArchiveError as error:
        hint = f"what ran is complete in {directory}: archive it with gpt2lab snapshot {directory}"
        raise ArchiveError(f"{error}; {hint}") from error
    console.print(f"archived {path}  (report: {path / 'README.md'})")


def find_weights(config: RunConfig) -> None:
    """Make an experiment's number in `model.init_from` the path of its weights."""
    config.model.init_from = starting_weights(Path(config.archive.root), config.model.init_from)


if __name__ == "__main__":
    sys.exit(main())
