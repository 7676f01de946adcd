"""Commands on data: prepare."""

import click

from gpt2lab.cli.group import group


@group.group()
def data() -> None:
    """Corpora: download and tokenise them ahead of a run."""


@data.command()
@click.argument("name")
@click.argument("overrides", nargs=-1)
def prepare(name: str, overrides: tuple[str, ...]) -> None:
    """Make the data source NAME ready, with OVERRIDES such as data.tokenizer=gpt2 or data.path=FILE."""
    from gpt2lab.compose import compose  # each of these takes longer than a list of the archive does
    from gpt2lab.data import read_source
    from gpt2lab.train.progress import Transfer

    config = compose([f"data={name}", *overrides])
    with Transfer() as transfer:
        source = read_source(config.data, vocab_size=config.model.vocab_size, report_progress=transfer)
    for split, tokens in source.splits.items():
        click.echo(f"{split:<6} {tokens.n_tokens:>13,} tokens in {len(tokens.shards)} shards")
    for file, digest in source.files.items():
        click.echo(f"sha256 {digest}  {file}")
