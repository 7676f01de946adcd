"""Commands on the archive: snapshot, list, show, report."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gpt2lab.archive import create, list_experiments, read_summary, resolve_experiment, status_words, write_index
from gpt2lab.archive.query import choose
from gpt2lab.archive.rewrite import rewrite_report
from gpt2lab.cli.group import group, root_option
from gpt2lab.cli.terminal import printable, table
from gpt2lab.errors import ArchiveError
from gpt2lab.record.columns import column
from gpt2lab.record.disk import read_bytes
from gpt2lab.record.rundir import RunDir
from gpt2lab.record.sweep import find_results, is_sweep, latest_result, read_sweep
from gpt2lab.record.values import is_number

_LONGEST_RENDERED = 100_000  # characters; what is longer is printed as it is, since rendering takes the square of it


@group.command()
@click.argument("directory", required=False, type=click.Path(path_type=Path))
@click.option("--name", help="Name of the experiment; by default the run's.")
@click.option("--hypothesis", help="What the run was expected to show; by default the run's.")
@click.option("--force", is_flag=True, help="Archive again, or archive what is not finished.")
@root_option
def snapshot(directory: Path | None, name: str | None, hypothesis: str | None, force: bool, root: Path) -> None:
    """Archive a run or a sweep, or of a folder each of them that is not archived yet.

    DIRECTORY is the directory of a run or a sweep, or a folder of them; without it, the one that ended last. A sweep
    is one experiment, with its runs inside.
    """
    from gpt2lab.report import write_report
    from gpt2lab.report.comparison.sweep_results import freeze_noise  # matplotlib takes longer than a list does

    if directory is None:
        directory = latest_result(Path("runs"))
        if directory is None:
            raise ArchiveError("runs: there is no run in it; name a run directory")
    results = find_results(directory) if directory.is_dir() else []
    if not results:
        raise ArchiveError(f"{directory}: holds no run (no status.json) and no sweep; name a run directory")
    refused: list[ArchiveError] = []
    for result in results:
        try:
            title = name or _name(result)
            path = create(
                result,
                root,
                name=title,
                hypothesis=hypothesis,
                write_report=write_report,
                complete_sweep=freeze_noise,
                force=force,
            )
        except ArchiveError as error:
            if len(results) == 1:
                raise
            click.echo(f"left out: {error}", err=True)
            refused.append(error)
        else:
            click.echo(f"{result} is experiment {path}{_weights(path)}")
    if len(refused) == len(results):
        raise ArchiveError(f"{directory}: none of its {len(results)} runs was archived")
    write_index(root)


def _name(directory: Path) -> str:
    """Return what a run or a sweep calls itself, else the name of its directory."""
    name = read_sweep(directory).name if is_sweep(directory) else RunDir(directory).read_config().get("name")
    return str(name or directory.name)


def _weights(experiment: Path) -> str:
    if is_sweep(experiment):
        return "" if any(experiment.glob("runs/*/model.bin")) else ", without weights: no run has a model.bin"
    return "" if (experiment / "model.bin").exists() else ", without weights: the run has no model.bin"


@group.command(name="list")
@click.option("--where", metavar="SQL", help='A condition: "val_loss < 2 and optim.beta2 = 0.99".')
@click.option("--sort", metavar="COLUMN", help="By a result or a key of the config; -COLUMN: descending.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per experiment.")
@root_option
def list_command(where: str | None, sort: str | None, as_json: bool, root: Path) -> None:
    """List the experiments.

    --where takes an SQL condition over results and config keys; gpt2lab sql --tables lists them.
    """
    everything = experiments = list_experiments(root, parts=("summary",))
    if where is not None or sort is not None:
        experiments, damage = choose(everything, where=where, sort=sort)
        for line in dict.fromkeys(damage):
            click.echo(f"left out: {printable(line)}", err=True)
    if as_json:
        for experiment in experiments:
            click.echo(json.dumps({"number": experiment.number, "path": str(experiment.path), **experiment.summary}))
        return
    if not experiments:
        none_chosen = f"{root}: no experiment matches {where} ({len(everything)} searched)"
        click.echo(printable(none_chosen) if everything else f"{root}: there are no experiments in it yet")
        return
    titles = ("no.", "name", "status", "data", "parameters", "tokens", "val loss", "val acc", "date")
    rows = [
        (f"{experiment.number:05d}", *_cells(experiment.summary or {"status": "damaged"})) for experiment in experiments
    ]
    click.echo("\n".join(table(titles, rows, "rlllrrrrl")))


def _cells(summary: dict[str, Any]) -> list[str]:
    def number(key: str, show: Callable[[float], str]) -> str:
        return show(summary[key]) if is_number(summary.get(key)) else "-"

    return [
        str(summary.get("name") or "-"),
        str(status_words(summary) or "-"),
        str(summary.get("data") or "-"),
        number("n_params_active", "{:,}".format),
        *(number(name, column(name).text) for name in ("tokens", "val_loss", "val_accuracy")),
        str(summary.get("date") or "-")[:10],
    ]


@group.command()
@click.argument("experiment")
@click.option("--json", "as_json", is_flag=True, help="Print summary.json.")
@root_option
def show(experiment: str, as_json: bool, root: Path) -> None:
    """Show the report of EXPERIMENT: a number, a folder name, or a name that only one has."""
    from rich.console import Console  # a list does without
    from rich.markdown import Markdown

    path = resolve_experiment(root, experiment)
    if as_json:
        click.echo(json.dumps(read_summary(path), indent=2))
        return
    readme = path / "README.md"
    if not readme.exists():
        raise ArchiveError(f"{readme}: missing; write it again with gpt2lab report {experiment}")
    page = read_bytes(readme).decode("utf-8", errors="replace")
    if len(page) > _LONGEST_RENDERED:
        click.echo(printable(page))
    else:
        Console().print(Markdown(printable(page)))
    click.echo(str(path))


@group.command()
@click.argument("experiment")
@root_option
def report(experiment: str, root: Path) -> None:
    """Write the report of EXPERIMENT again from its data; notes.md is merged in and never changed."""
    from gpt2lab.report import write_report

    path = resolve_experiment(root, experiment)
    try:
        title = str(read_summary(path)["name"])
    except (ArchiveError, KeyError):  # the report writes it anew
        title = path.name.partition("-")[2]
    rewrite_report(path, title, write_report)
    write_index(root)
    click.echo(str(path / "README.md"))
