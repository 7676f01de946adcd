"""The command that evaluates models on data."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpt2lab.cli.find_model import FoundModel, find_model
from gpt2lab.cli.group import group, root_option
from gpt2lab.cli.terminal import print_table
from gpt2lab.errors import ConfigError
from gpt2lab.record.disk import file_sha256
from gpt2lab.record.markdown import one_line
from gpt2lab.record.rundir import now_utc
from gpt2lab.schema import DeviceChoice, EngineConfig, EngineName, Precision

if TYPE_CHECKING:
    from gpt2lab.compose import Requested


@group.command()
@click.argument("models", nargs=-1, required=True)
@click.option(
    "--on",
    "data",
    multiple=True,
    required=True,
    metavar="[NAME: ]OVERRIDES",
    help="Data, and how it is read: 'data=pydocs', 'notes: data=text data.path=FILE'. Once for each data source.",
)
@click.option("--split", default="val", show_default=True, help="train, val, or test where there is one.")
@click.option("--batches", type=click.IntRange(1), help="Batches of the split; by default all of it.")
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Sequences per batch.")
@click.option("--before", metavar="MODEL", help="The model before the first phase: adds forward transfer.")
@click.option("--engine", type=click.Choice([e.name for e in EngineName]), help="By default that of the model's run.")
@click.option("--device", type=click.Choice([d.name for d in DeviceChoice]), help="With --engine; by default auto.")
@click.option("--precision", type=click.Choice([p.name for p in Precision]), help="By default fp32 with --engine.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--output", type=click.Path(path_type=Path), help="Write evaluation.json and a page to this folder.")
@root_option
def evaluate(
    models: tuple[str, ...],
    data: tuple[str, ...],
    split: str,
    batches: int | None,
    batch_size: int,
    before: str | None,
    engine: str | None,
    device: str | None,
    precision: str | None,
    as_json: bool,
    output: Path | None,
    root: Path,
) -> None:
    """Evaluate MODELS on data: loss, perplexity, bits per byte, and what a chain of phases kept and forgot.

    MODELS are experiments, run directories, checkpoint files or hf:gpt2. OVERRIDES are applied to the config that a
    model was trained with. As many models as data, in order, are the phases of a chain (model.init_from) and its tasks.
    """
    # Hydra, torch and matplotlib are needed by few commands
    from gpt2lab.compose import compose_requested, parse_requested
    from gpt2lab.report.evaluation.page import check_output, write_evaluation
    from gpt2lab.report.evaluation.record import record_evaluation
    from gpt2lab.train.evaluate_models import evaluate_cells, open_candidate, plan_evaluation
    from gpt2lab.train.evaluation_task import make_task

    requested = parse_requested(data)
    settings = _engine(engine, device, precision)
    names = [before, *models] if before is not None else list(models)
    found = {model.name: model for model in (find_model(ref, root) for ref in names)}
    if len(found) < len(names):
        raise ConfigError(f"{' '.join(names)}: one model is named twice; each is one row")
    if output is not None:
        check_output(output)
    candidates = [open_candidate(m.name, m.checkpoint, m.config, settings) for m in found.values()]
    tasks = [
        [make_task(r.name, compose_requested(r, c.trained), r.keys, c.trained, c.shape.vocab_size) for r in requested]
        for c in candidates
    ]
    rows = plan_evaluation(candidates, tasks, split=split, batch_size=batch_size)
    measured = []
    for cell in evaluate_cells(rows, split=split, count=batches):
        measured.append(cell)
        if sys.stderr.isatty():
            click.echo(f"{cell.model} on {cell.task}: {cell.loss:.4f} nats per token", err=True)
    record = record_evaluation(
        models=[_describe_model(found[cell.model], cell) for cell in measured[:: len(requested)]],
        tasks=[_describe_task(r, cell) for r, cell in zip(requested, rows[0], strict=True)],
        measured=[asdict(cell) for cell in measured],
        before=next(iter(found)) if before is not None else None,
        date=now_utc(),
        command=["gpt2lab", *sys.argv[1:]],
        split=split,
        batches=batches,
        batch_size=batch_size,
    )
    if output is not None:
        write_evaluation(record, output)
    if as_json:
        click.echo(json.dumps(record, indent=2, ensure_ascii=False))
    else:
        _print(record)
        if output is not None:
            click.echo(f"\npage: {output / 'README.md'}")


def _engine(name: str | None, device: str | None, precision: str | None) -> EngineConfig | None:
    """Return the engine that the options ask for; None when they ask for none."""
    if name is None and device is None and precision is None:
        return None
    return EngineConfig(
        name=EngineName[name or "auto"], device=DeviceChoice[device or "auto"], precision=Precision[precision or "fp32"]
    )


def _describe_model(model: FoundModel, cell: Any) -> dict[str, Any]:
    checkpoint = Path(model.checkpoint)
    return {
        "name": model.name,
        "sha256": file_sha256(checkpoint) if checkpoint.is_file() else None,
        "starts_from": (model.provenance.get("model") or {}).get("init_from_sha256"),
        "data_files": (model.provenance.get("data") or {}).get("files"),
        "engine": [cell.engine, f"{cell.device} ({cell.device_name})", cell.precision],
    }


def _describe_task(requested: "Requested", cell: Any) -> dict[str, Any]:
    source, counted = cell.source, cell.spec.counted
    return {
        "name": requested.name,
        "overrides": list(requested.overrides),
        "source": source.name,
        "tokenizer": source.tokenizer.name,
        "vocab_size": source.vocab_size,
        "row_len": source.row_len,
        "seq_len": cell.spec.seq_len,
        "counted_positions": None if counted is None else list(counted),
        "data_files": dict(source.files),
    }


def _print(record: dict[str, Any]) -> None:
    from gpt2lab.report.evaluation.page import DOMAIN_COLUMNS, chain_rows, domain_rows, matrix_rows

    print_table(DOMAIN_COLUMNS, domain_rows(record), "llrrrrr")
    if record["chain"]:
        for measure in record["matrices"]:
            for above, make in ((f"\n{measure}", matrix_rows), ("", chain_rows)):
                titles, rows = make(record, measure)
                click.echo(above)
                print_table(titles, rows, "l" + "r" * (len(titles) - 1))
    click.echo()
    for finding in record["findings"]:
        click.echo(one_line(f"{finding['verdict']}. {finding['text']}"))
    for note in record["notes"]:
        click.echo(one_line(f"note: {note}"))
