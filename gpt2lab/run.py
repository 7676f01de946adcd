"""`python -m gpt2lab.run [overrides]`: compose a config, train, archive and report. Only wires the parts together."""

import re
import sys
from pathlib import Path

from rich.console import Console

from gpt2lab import compose
from gpt2lab.archive import check_root, create, resolve_run, write_index
from gpt2lab.compose import Job
from gpt2lab.errors import ArchiveError, ConfigError
from gpt2lab.schema import ArchiveMode


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for and return the exit code."""
    return compose.main(run_job, arguments)


def run_job(job: Job) -> int:
    """Train one composed job, archive it when it has finished, say where everything is; return the exit code."""
    # Imported late: torch and matplotlib take seconds that --help and a mistyped key should not wait for.
    from gpt2lab.train import execute

    console = Console(highlight=False, markup=False, soft_wrap=True)
    config, root = job.config, Path(job.config.archive.root)
    console.print(f"run      {job.run_dir}" + (f"  [{' '.join(job.overrides)}]" if job.number is not None else ""))
    config.model.init_from = starting_checkpoint(config.model.init_from, root)
    if config.archive.mode is ArchiveMode.auto:
        check_root(root)
    command = ["python", "-m", "gpt2lab.run", *job.overrides]
    outcome = execute(config, job.run_dir, overrides=job.overrides, command=command, console=console)
    if outcome.state == "interrupted":
        return 130
    if config.archive.mode is ArchiveMode.auto:
        from gpt2lab.report import write_report

        name = config.name or job.run_dir.name
        try:
            path = create(job.run_dir, root, name=name, hypothesis=config.hypothesis, write_report=write_report)
            write_index(root)
        except ArchiveError as error:
            raise ArchiveError(
                f"{error}; the run is complete in {job.run_dir}: archive it with gpt2lab snapshot {job.run_dir}"
            ) from error
        console.print(f"archived {path}  (report: {path / 'README.md'})")
    return 0


def starting_checkpoint(init_from: str | None, root: Path) -> str | None:
    """Return what `model.init_from` names; an experiment's number (of a sweep 5/3) or folder as its model.bin."""
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
