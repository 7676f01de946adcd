"""Commands that check experiments and carry them to other archives: verify, export, import."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from gpt2lab.archive import check_root, find_experiments, resolve_experiment, write_index
from gpt2lab.archive.transfer import export_experiment, import_experiment
from gpt2lab.archive.verify import Fault, Verification
from gpt2lab.archive.verify import verify as verify_experiment
from gpt2lab.cli.group import group, root_option
from gpt2lab.cli.terminal import printable
from gpt2lab.errors import ArchiveError
from gpt2lab.record.rundir import RunDir

_SHOWN_FAULTS = 8  # of one experiment, in the line for people
_SHOWN_ABSENT = 2


@group.command()
@click.argument("experiments", nargs=-1, metavar="[EXPERIMENT]...")
@click.option("--weights", is_flag=True, help="Weights that are not on this machine are a fault too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per experiment.")
@root_option
def verify(experiments: tuple[str, ...], weights: bool, as_json: bool, root: Path) -> None:
    """Check experiments (default: all): files and hashes, config under today's schema, report against the record.

    An edited notes.md and a report written by other report code or libraries are mentioned only. Exit code 5 when
    anything else differs.
    """
    from gpt2lab.report import write_report  # matplotlib takes longer than a list does

    paths = [resolve_experiment(root, ref) for ref in experiments] or [found.path for found in find_experiments(root)]
    if not paths:
        raise ArchiveError(f"{root}: there are no experiments in it to verify")
    differing = 0
    for path in paths:
        try:
            verdict = verify_experiment(path, weights=weights, check_config=check_config, write_report=write_report)
        except ArchiveError as error:  # one that cannot be read does not hide the others
            fault = Fault(file=str(path), kind="unreadable", why=str(error))
            verdict = Verification(path=path, faults=(fault,))
        differing += bool(verdict.faults)
        click.echo(json.dumps(_as_json(verdict)) if as_json else printable(_line(verdict)).replace("\n", "?"))
    if differing:
        raise ArchiveError(f"{root}: {differing} of {len(paths)} experiments are not as they were archived")


@group.command(name="export")
@click.argument("experiment")
@click.option("--output", type=click.Path(path_type=Path), help="The tar to write; by default FOLDER.tar, here.")
@click.option("--weights", is_flag=True, help="Put the weights in too.")
@root_option
def export_command(experiment: str, output: Path | None, weights: bool, root: Path) -> None:
    """Write EXPERIMENT as one tar that another archive can import; the same bytes every time."""
    path = resolve_experiment(root, experiment)
    click.echo(str(export_experiment(path, output or Path(f"{path.name}.tar"), weights=weights)))


@group.command(name="import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Also when the run is in the archive already.")
@root_option
def import_command(file: Path, force: bool, root: Path) -> None:
    """Put an exported experiment into the archive under the next number.

    Refused as a whole when a file is not as its manifest says, is a link or a device, is too large, or is nothing that
    a run leaves behind. What is in the archive is trusted.
    """
    from gpt2lab.report import write_report

    check_root(root)
    path = import_experiment(file, root, write_report=write_report, force=force)
    write_index(root)
    click.echo(f"{file} is experiment {path}; check its config and report with gpt2lab verify {path.name}")


def check_config(path: Path) -> None:
    """Raise a Gpt2labError when the config.yaml of an experiment is not one that this version could run."""
    from gpt2lab.compose import to_run_config  # Hydra is needed by few commands

    to_run_config(RunDir(path.parent).read_config())


def _line(verdict: Verification) -> str:
    absent = [f"{name} absent" for name in verdict.absent]
    notes = absent if len(absent) <= _SHOWN_ABSENT else [f"{len(absent)} files of weights absent"]
    notes += ["notes.md edited since its report"] if verdict.notes_edited else []
    notes += [f"report written by {verdict.report_by}"] if verdict.report_by else []
    remarks = f" ({', '.join(notes)})" if notes else ""
    if not verdict.faults:
        return f"{verdict.path.name}: ok{remarks}"
    shown = [f"{fault.kind} {fault.file}: {' '.join(fault.why.split())}" for fault in verdict.faults[:_SHOWN_FAULTS]]
    more = len(verdict.faults) - len(shown)
    shown += [f"and {more} more, see --json"] if more else []
    return f"{verdict.path.name}: {'; '.join(shown)}{remarks}"


def _as_json(verdict: Verification) -> dict[str, Any]:
    facts = asdict(verdict)
    return {"experiment": facts.pop("path").name, "ok": not verdict.faults, **facts}
