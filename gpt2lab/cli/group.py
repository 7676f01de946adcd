"""The command group, which each file of commands adds its own to, and the option that many of them have."""

from pathlib import Path

import click

from gpt2lab import __version__

root_option = click.option(
    "--root", type=click.Path(path_type=Path), default=Path("experiments"), show_default=True, help="The archive."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gpt2lab")
def group() -> None:
    """Train GPT-2-scale models as tracked runs, and keep them as experiments."""
