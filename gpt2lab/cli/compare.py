"""The command that compares experiments."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click

from gpt2lab.archive import expand, list_provenance, resolve, resolve_run
from gpt2lab.cli.group import group, root_option
from gpt2lab.cli.terminal import print_table
from gpt2lab.record.columns import result_names
from gpt2lab.record.sweep import is_sweep, read_sweep
from gpt2lab.report import numbers
from gpt2lab.report.comparison.arms import read_run
from gpt2lab.report.comparison.compare import ArmResult, Comparison
from gpt2lab.report.comparison.compare import compare as compare_runs
from gpt2lab.report.comparison.sweep_results import baseline_run
from gpt2lab.report.comparison_page.words import p_value, within

MOST_LABEL = 80  # characters of what varies; the sentence below the table has all of it


@group.command()
@click.argument("experiments", nargs=-1)
@click.option("--metric", help=f"One of {', '.join(result_names())}; by default that of a lone sweep, else val_loss.")
@click.option("--baseline", help="The run whose arm is the baseline; by default that of a lone sweep, else the first.")
@click.option("--vary", multiple=True, help="May differ: a config key, data, steps, evaluation, model, code or engine.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--report", type=click.Path(path_type=Path), help="Folder to write a page with figures into.")
@root_option
def compare(
    experiments: tuple[str, ...],
    metric: str | None,
    baseline: str | None,
    vary: tuple[str, ...],
    as_json: bool,
    report: Path | None,
    root: Path,
) -> None:
    """Compare EXPERIMENTS: runs of equal config are one arm, compared with the baseline by seed.

    A sweep stands for all its runs, N/JOB for one of them.
    """
    directories = [run for experiment in experiments for run in expand(root, experiment)]
    path = resolve(root, experiments[0]) if len(experiments) == 1 else None
    sweep = path if path is not None and is_sweep(path) else None
    default_baseline = baseline_run(sweep) if baseline is None and sweep is not None else None
    comparison = compare_runs(
        directories,
        metric=metric or (read_sweep(sweep).metric if sweep is not None else "val_loss"),
        baseline=default_baseline if baseline is None else resolve_run(root, baseline),
        vary=vary,
        archive=list_provenance(root),
    )
    if report is not None:
        from gpt2lab.report.comparison_page.experiments import write_comparison  # brings matplotlib

        page = write_comparison(comparison, [read_run(directory) for directory in directories], report)
        click.echo(f"wrote {page}", err=True)
    if as_json:
        click.echo(json.dumps({**asdict(comparison), "sentences": comparison.sentences}, indent=2))
        return
    for note in comparison.notes:
        click.echo(note)
    for name, reason in comparison.left_out:
        click.echo(f"left out: {name}: {reason}")
    for names, reasons in comparison.apart:
        click.echo(f"not compared: {names}: {', '.join(reasons)}")
    difference = "difference [corrected]" if comparison.comparisons > 1 else "difference [95 %]"
    numeric = ("fc1 kept", "fc2 kept", "n", f"{comparison.metric} ± std", "95 % interval", difference, "p")
    click.echo()
    print_table(
        ("no.", "arm", *numeric, "verdict"), [_cells(row, comparison.metric) for row in comparison.rows], "llrrrrrrrl"
    )
    click.echo()
    for sentence in comparison.sentences:
        click.echo(sentence)
    click.echo(_floor(comparison))


def _cells(row: ArmResult, metric: str) -> list[str]:
    def interval(ends: tuple[float, float] | None, show: Callable[[float], str] = numbers.decimal) -> str:
        return f"[{show(ends[0])}, {show(ends[1])}]" if ends else numbers.MISSING

    show = numbers.formatter(metric)
    spread = numbers.MISSING if row.estimate.std is None else numbers.decimal(row.estimate.std)
    difference = numbers.MISSING
    if row.difference is not None:
        sign = "+" if row.difference.mean > 0 else ""
        difference = f"{sign}{numbers.decimal(row.difference.mean)} {interval(row.corrected_interval)}"
    return [
        " ".join(_number(name) for name in row.experiments),
        row.label if len(row.label) <= MOST_LABEL else f"{row.label[:MOST_LABEL]}…",
        *(numbers.percent(row.density.get(matrix)) for matrix in ("fc1", "fc2")),
        str(row.estimate.n),
        f"{show(row.estimate.mean)} ± {spread}",
        interval(within(row.estimate.interval, metric), show),
        difference,
        p_value(row.corrected_p),
        row.judgement.verdict if row.judgement else "baseline",
    ]


def _number(name: str) -> str:
    """Return the number of an experiment from its folder's name, with a job's behind it: 12, 5/3."""
    return "/".join(part.partition("-")[0].lstrip("0") or "0" for part in name.split("/"))


def _floor(comparison: Comparison) -> str:
    floor, m = comparison.floor, comparison.comparisons
    p = f"; p-values are corrected for {m} comparisons (Holm)" if m > 1 else ""
    if floor is None:
        return f"noise floor: unknown, no config was run with two seeds{p}"
    std = numbers.decimal(floor.std)
    return f"noise floor: {std}, of {floor.runs} runs in {floor.groups} groups of equal config{p}"
