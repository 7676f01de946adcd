"""The command that asks the archive in SQL."""

import json
from pathlib import Path
from typing import Any

import click

from gpt2lab.archive import list_experiments
from gpt2lab.archive.query import QueryResult, describe, select
from gpt2lab.cli.group import group, root_option
from gpt2lab.cli.terminal import json_value, printable, table
from gpt2lab.errors import ConfigError


@group.command()
@click.argument("query", required=False)
@click.option("--tables", is_flag=True, help="List tables and columns: number of values, example, unit, meaning.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per row.")
@root_option
def sql(query: str | None, tables: bool, as_json: bool, root: Path) -> None:
    """Ask the archive in SQL: QUERY is one SELECT of SQLite, which reads and never writes.

    Tables: experiments (one row each: results and config), runs (one row per run and per job of a sweep: config and
    last measured values) and metrics (the rows of metrics.csv). Config keys are columns: optim.weight_decay.
    """
    if tables == (query is not None):
        raise ConfigError('expected one of a query and --tables: gpt2lab sql "SELECT name, val_loss FROM experiments"')
    experiments = list_experiments(root, parts=("summary",))
    if not experiments:
        click.echo(f"{root}: there are no experiments in it yet", err=as_json)
        return
    result = describe(experiments) if query is None else select(experiments, query)
    for damage in dict.fromkeys(result.damage):
        click.echo(f"left out: {printable(damage)}", err=True)
    for line in _json_lines(result) if as_json else _table_lines(result):
        click.echo(line)


def _json_lines(result: QueryResult) -> list[str]:
    doubled = {name for name in result.columns if result.columns.count(name) > 1}
    if doubled:
        raise ConfigError(f"--json: several columns are named {sorted(doubled)[0]!r}; name them with AS")
    return [json.dumps(dict(zip(result.columns, map(json_value, row), strict=True))) for row in result.rows]


def _table_lines(result: QueryResult) -> list[str]:
    numeric = [
        all(isinstance(value, int | float | None) for value in values) for values in zip(*result.rows, strict=True)
    ]
    sides = "".join("r" if right else "l" for right in numeric) or "l" * len(result.columns)
    return list(table(result.columns, [[_cell(value) for value in row] for row in result.rows], sides))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(json_value(value))
