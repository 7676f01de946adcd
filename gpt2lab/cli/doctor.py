"""The command that says what this machine has and what is missing."""

import click

from gpt2lab.cli.group import group


@group.command()
def doctor() -> None:
    """Say which devices, tokenizers and services this machine offers."""
    from gpt2lab.train.doctor import examine

    for finding in examine():
        click.echo(f"{'ok  ' if finding.ok else 'note'} {finding.name:<16} {finding.text}")
