"""The command that runs an experiment again: the only one that executes what an archive holds."""

import json
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from gpt2lab.archive import resolve_run
from gpt2lab.archive.agreement import ChangedValue
from gpt2lab.archive.reproduce import ReproduceError, Reproduction, ReproductionPlan, plan_reproduction
from gpt2lab.archive.reproduce import reproduce as run_again
from gpt2lab.cli.group import group, root_option
from gpt2lab.cli.terminal import json_value, printable
from gpt2lab.record.source_archive import source_of

_DIFFERENT = 5  # exit code


@group.command()
@click.argument("experiment")
@click.option("--steps", type=click.IntRange(1), help="Compare only the first K updates.", metavar="K")
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    metavar="R",
    help="Largest relative difference that is accepted; 0: every number is the same.",
)
@click.option("--keep", type=click.Path(path_type=Path), metavar="DIR", help="Write the run there and leave it.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@root_option
def reproduce(
    experiment: str, steps: int | None, tolerance: float, keep: Path | None, as_json: bool, root: Path
) -> None:
    """Run EXPERIMENT again with its archived source, and compare every number; of a sweep one run, as N/JOB.

    This executes the code that the experiment holds. The exit code is 0 when the metrics are identical, or within
    --tolerance, 5 when they differ, and 2 or 3 when the run cannot be made here.
    """
    path = resolve_run(root, experiment)
    click.echo(f"this executes the source code stored in {source_of(path)}", err=as_json)
    plan = plan_reproduction(path, root, steps=steps)
    for line in _describe(plan):
        click.echo(printable(line), err=as_json)
    with _ended_by_signals():
        result = run_again(plan, keep=keep)
    verdict = result.agreement.verdict(tolerance)
    if as_json:
        click.echo(json.dumps(_json(path, plan, result, tolerance)))
    else:
        for line in _result(result, tolerance):
            click.echo(printable(line))
    if verdict == "different":
        raise ReproduceError(f"{path}: its numbers were not reproduced", _DIFFERENT)


def _describe(plan: ReproductionPlan) -> Iterator[str]:
    threads = f"OMP_NUM_THREADS={plan.threads}, as recorded" if plan.threads else "threads are not recorded"
    yield f"running  python -m gpt2lab.run {shlex.join(plan.overrides)}  ({threads})"
    whole = f"all {plan.last_step} steps"
    yield f"compared {whole if plan.stop is None else f'up to step {plan.stop} of {plan.last_step}, {plan.why_stop}'}"


def _result(result: Reproduction, tolerance: float) -> Iterator[str]:
    agreement = result.agreement
    verdict = agreement.verdict(tolerance)
    allowed = f" ({tolerance:g} relative)" if tolerance and verdict != "identical" else ""
    differing = f"{len(agreement.differences):,} of {agreement.n_values:,} values in {agreement.n_rows:,} rows differ"
    yield f"{verdict}{allowed}: {differing}"
    if result.ending:
        yield f"the run ended with: {result.ending}"
    for what, steps in (("missing", agreement.missing), ("extra", agreement.extra)):
        if steps:
            yield f"{what} rows: {len(steps):,}, at steps {', '.join(map(str, steps[:10]))}{' ...' * (len(steps) > 10)}"
    if agreement.largest is not None:
        yield f"first    {agreement.differences[0]}"
        yield f"largest  {agreement.largest}, relative {agreement.largest.relative:.3g}"
    for name, (before, now) in result.settings.items():
        yield f"config   {name}: {before} in config.yaml, {now} from overrides.yaml"
    if verdict != "identical":
        for name, (before, now) in result.environment.items():
            yield f"changed  {name}: {before} then, {now} now"
        if not result.environment:
            yield "changed  nothing that the record names: python, packages, device, threads and data are the same"


def _json(path: Path, plan: ReproductionPlan, result: Reproduction, tolerance: float) -> dict[str, Any]:
    agreement = result.agreement
    return {
        "experiment": str(path),
        "verdict": agreement.verdict(tolerance),
        "tolerance": tolerance,
        "stop": plan.stop,
        "rows": agreement.n_rows,
        "values": agreement.n_values,
        "differing": len(agreement.differences),
        "missing": agreement.missing,
        "extra": agreement.extra,
        "first": _json_difference(agreement.differences[0]) if agreement.differences else None,
        "largest": _json_difference(agreement.largest) if agreement.largest else None,
        "settings": result.settings,
        "environment": result.environment,
        "ending": result.ending,
    }


def _json_difference(difference: ChangedValue) -> dict[str, Any]:
    facts = {**asdict(difference), "relative": difference.relative}
    return {name: json_value(value) for name, value in facts.items()}


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does, so that the run is killed and its files are removed."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
