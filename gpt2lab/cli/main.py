"""The command group: which commands there are, and how errors end."""

import os
import sys

import click

from gpt2lab.cli import archive, compare, data, doctor, evaluate, gc, model, reproduce, sql, trust  # noqa: F401
from gpt2lab.cli.group import group
from gpt2lab.cli.terminal import printable
from gpt2lab.errors import error_line


@group.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED)
def run(overrides: tuple[str, ...]) -> None:
    """Train: the same as `python -m gpt2lab.run [OVERRIDES]`.

    `gpt2lab run --help` lists the config groups, `gpt2lab run --cfg job` every key.
    """
    from gpt2lab.run import main as run_main

    sys.exit(run_main(list(overrides)))


def complete() -> None:
    """Answer the shell's completion, which Hydra's script asks of the executable itself.

    Install it with `eval "$(gpt2lab run -sc install=bash)"`.
    """
    line = os.environ.get("COMP_LINE", "").split(" ")
    if line[1:2] == ["run"] and len(line) > 2:
        os.environ["COMP_LINE"] = " ".join([line[0], *line[2:]])
        from gpt2lab.run import main as run_main

        run_main(["-sc", "query=bash"])
    else:
        print("\n".join(group.commands))


def main() -> None:
    """Entry point of the console script. An error is one line and its exit code, a closed pipe its exit code alone."""
    codes: list[int] = []
    with error_line(codes, show=printable):
        codes.append(_invoke())
    if codes[-1]:
        sys.exit(codes[-1])


def _invoke() -> int:
    """Carry out the command line as click's main does, which keeps a closed pipe to itself; return the exit code."""
    try:
        if sys.argv[1:] == ["-sc", "query=bash"]:
            complete()
        else:
            with group.make_context("gpt2lab", sys.argv[1:]) as context:
                group.invoke(context)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
    except click.ClickException as error:
        print(f"gpt2lab: {printable(error.format_message())}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, EOFError, click.Abort):
        return 130
    return 0
