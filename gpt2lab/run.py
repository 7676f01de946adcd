"""`python -m gpt2lab.run [overrides]`: compose a config, train, archive and report. Only wires the parts together."""

import re
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from gpt2lab import compose
from gpt2lab.archive import archived_as, check_root, create, resolve_run, write_index
from gpt2lab.compose import Grid, Job
from gpt2lab.errors import ArchiveError, ConfigError
from gpt2lab.record.provenance import config_hash
from gpt2lab.schema import ArchiveMode, RunConfig, plain


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for and return the exit code."""
    return compose.main(run_job, run_grid, arguments)


def run_job(job: Job) -> int:
    """Train one composed job, archive it when it has finished, say where everything is; return the exit code."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    config = job.config
    if config.archive.mode is ArchiveMode.auto:
        check_root(Path(config.archive.root))
    code = train_job(job, console)
    if code == 0 and config.archive.mode is ArchiveMode.auto:
        archive(job.run_dir, config, name=config.name or job.run_dir.name, console=console)
    return code


def train_job(job: Job, console: Console) -> int:
    """Train one composed job; return the exit code."""
    # Imported late: torch takes seconds that --help and a mistyped key should not wait for.
    from gpt2lab.train import execute

    console.print(f"run      {job.run_dir}")
    job.config.model.init_from = starting_checkpoint(job.config)
    command = ["python", "-m", "gpt2lab.run", *job.overrides]
    outcome = execute(job.config, job.run_dir, overrides=job.overrides, command=command, console=console)
    return 130 if outcome.state == "interrupted" else 0


def run_grid(grid: Grid) -> int:
    """Run what is missing of a sweep, and archive it when all its jobs had their turn; return the exit code."""
    from gpt2lab.data import read_source
    from gpt2lab.report.compare import METRICS
    from gpt2lab.sweep import Identity, run_sweep
    from gpt2lab.train import check_run

    sources: dict[str, Any] = {}  # one reading for all jobs of the same data

    def identify(config: RunConfig) -> Identity:
        config.model.init_from = starting_checkpoint(config)
        key = repr((plain(config.data), config.model.vocab_size))
        if key not in sources:
            sources[key] = read_source(config.data, vocab_size=config.model.vocab_size)
        check_run(config, sources[key])
        return Identity(config_hash(plain(config)), sources[key].files)

    console = Console(highlight=False, markup=False, soft_wrap=True)
    config = grid.jobs[0].config
    if config.sweep.metric not in METRICS:
        raise ConfigError(
            f"sweep.metric={config.sweep.metric}: no result of a run; expected one of {', '.join(METRICS)}"
        )
    if config.archive.mode is ArchiveMode.auto:
        check_root(Path(config.archive.root))
    result = run_sweep(grid, identify=identify, execute=train_job, console=console)
    path, name = result.sweep.path, result.sweep.name
    if result.interrupted:
        console.print(f"continue with the same command, or archive it as it is: gpt2lab snapshot {path} --force")
    elif config.archive.mode is ArchiveMode.auto:
        archive(path, config, name=name, console=console)
    return result.exit_code


def archive(directory: Path, config: RunConfig, *, name: str, console: Console) -> None:
    """Archive a run or a sweep, whose jobs all had their turn, and say where; the same result only once."""
    from gpt2lab.report import write_report

    root, hypothesis = Path(config.archive.root), config.hypothesis
    if (path := archived_as(directory, root)) is not None:
        console.print(f"archived already as {path}")
        return
    try:
        path = create(
            directory, root, name=name, hypothesis=hypothesis, write_report=write_report, allow_unfinished=True
        )
        write_index(root)
    except ArchiveError as error:
        raise ArchiveError(
            f"{error}; the run is complete in {directory}: archive it with gpt2lab snapshot {directory}"
        ) from error
    console.print(f"archived {path}  (report: {path / 'README.md'})")


def starting_checkpoint(config: RunConfig) -> str | None:
    """Return what `model.init_from` names; an experiment's number (of a sweep 5/3) or folder as its model.bin."""
    init_from, root = config.model.init_from, Path(config.archive.root)
    if init_from is None:
        return None
    numbered = init_from.isdigit() or (re.fullmatch(r"[0-9]+/[0-9]+", init_from) and not Path(init_from).exists())
    if not numbered and not Path(init_from).is_dir():
        return init_from
    model = (resolve_run(root, init_from) if numbered else Path(init_from)) / "model.bin"
    if not model.is_file():
        raise ConfigError(
            f"model.init_from={init_from}: {model} is missing; weights are kept out of git, so a clone has none"
        )
    return str(model)


if __name__ == "__main__":
    sys.exit(main())
