"""Commands on models: plan, sample, parity."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from gpt2lab.cli.find_model import find_model
from gpt2lab.cli.group import group, root_option
from gpt2lab.cli.terminal import print_table
from gpt2lab.errors import ConfigError, Gpt2labError
from gpt2lab.schema import DeviceChoice, EngineConfig, EngineName, Precision, TokenizerName

engine_option = click.option("--engine", type=click.Choice([e.name for e in EngineName]), default="auto")
device_option = click.option("--device", type=click.Choice([d.name for d in DeviceChoice]), default="auto")
precision_option = click.option(
    "--precision", type=click.Choice([p.name for p in Precision]), default="fp32", show_default=True
)


@group.command(context_settings={"ignore_unknown_options": True})
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED)
def plan(overrides: tuple[str, ...]) -> None:
    """Say what a run would need, before anything is allocated: parameters, FLOPs, memory. Of a sweep, its first job."""
    from gpt2lab.compose import compose  # Hydra is needed by few commands
    from gpt2lab.compose.grid import expand
    from gpt2lab.record.sweep import describe as describe_job
    from gpt2lab.train.plan import describe, make_plan

    grid = expand(overrides)
    if grid is not None:
        click.echo(f"{'sweep':<16} {len(grid.jobs)} jobs; this is the first, {describe_job(grid.jobs[0].values)}")
    for what, value in describe(make_plan(grid.jobs[0].config if grid else compose(list(overrides)))):
        click.echo(f"{what:<16} {value}")


@group.command()
@click.argument("checkpoint")
@click.option("--prompt", help="Text to begin with.")
@click.option("--count", type=click.IntRange(1), default=1, show_default=True, help="Samples to write.")
@click.option("--max-tokens", type=click.IntRange(1), default=200, show_default=True)
@click.option(
    "--temperature", type=click.FloatRange(0), default=0.8, show_default=True, help="0 = the likeliest token."
)
@click.option("--top-k", type=click.IntRange(1), help="Draw among the k likeliest tokens.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--tokenizer", type=click.Choice([t.name for t in TokenizerName]), help="For a bare checkpoint file.")
@engine_option
@device_option
@precision_option
@root_option
def sample(
    checkpoint: str,
    prompt: str | None,
    count: int,
    tokenizer: str | None,
    engine: str,
    device: str,
    precision: str,
    root: Path,
    **sampling: Any,  # max_tokens, temperature, top_k and seed
) -> None:
    """Write text with the model of CHECKPOINT: an experiment, a run directory, a model.bin, or hf:gpt2."""
    from gpt2lab.train.sample import continue_text, model_source, open_model

    found = find_model(checkpoint, root)
    if found.config is not None and tokenizer is not None:
        raise ConfigError(f"--tokenizer {tokenizer}: {checkpoint} knows its tokenizer; the option is for a bare file")
    settings = EngineConfig(name=EngineName[engine], device=DeviceChoice[device], precision=Precision[precision])
    model, shape = open_model(found.checkpoint, settings)
    texts = continue_text(
        model,
        model_source(found.config, shape.vocab_size, TokenizerName[tokenizer] if tokenizer else None),
        prompt,
        count=count,
        max_seq_len=shape.max_seq_len,
        vocab_size=shape.vocab_size,
        **sampling,
    )
    for number, text in enumerate(texts, 1):
        if count > 1:
            click.echo(f"--- sample {number} ---")
        click.echo(text)


@group.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("debug_state", type=click.Path(path_type=Path))
@engine_option
@device_option
@precision_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object per comparison.")
def parity(model: Path, debug_state: Path, engine: str, device: str, precision: str, as_json: bool) -> None:
    """Compare an engine with what llm.c computed: logits, loss and the 16 gradients.

    MODEL is an llm.c checkpoint, DEBUG_STATE the state file written beside it.
    """
    from gpt2lab.train.parity import compare_with_llmc

    settings = EngineConfig(name=EngineName[engine], device=DeviceChoice[device], precision=Precision[precision])
    rows = compare_with_llmc(model, debug_state, settings)
    if as_json:
        for row in rows:
            click.echo(json.dumps({**asdict(row), "passed": row.passed}))
    else:
        cells = [
            (
                row.name,
                *(f"{n:.3g}" for n in (row.max_abs, row.max_error, row.relative_error, row.tolerance)),
                "ok" if row.passed else "DIFFERS",
            )
            for row in rows
        ]
        print_table(("what", "largest", "max error", "relative", "allowed", ""), cells, "lrrrrl")
    if not all(row.passed for row in rows):
        raise ParityError(
            f"{sum(not row.passed for row in rows)} of {len(rows)} comparisons differ by more than allowed"
        )


class ParityError(Gpt2labError):
    """An engine computes something else than llm.c did."""

    exit_code = 5
