"""The `gpt2lab` command."""

from gpt2lab.cli.main import main
