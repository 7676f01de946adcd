"""The command that says what this machine has and what is missing."""

import click

from gpt2lab.cli.group import group


@group.command()
def doctor() -> None:
    """Say which devices, tokenizers and services this machine offers."""
    from gpt2lab.train.doctor import examine

    for name, ok, text in examine():
        click.echo(f"{'ok  ' if ok else 'note'} {name:<16} {text}")
